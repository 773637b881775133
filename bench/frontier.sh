#!/usr/bin/env bash
# Quality per bit: every pair of codecs that matters, calibrated mixes and peers, on two models at three lengths.
set -euo pipefail

usage() {
  cat <<'END'
usage: bench/frontier.sh [--out DIR] [--model DIR_OR_FILE]... [--contexts LIST] [--page-tokens LIST] [--budgets LIST]
                         [--label NAME] [--peers FILE]... [-- OPTIONS OF quire-ppl]

Builds Release in build/release. For each model: calibrates on the beginning of the King James text, searches widths for
every budget, then measures all pairs and mixes on the last 8192 tokens of the text at each length. Leaves
DIR/frontier.json (all rows; peers' rows from --peers among them) and DIR/frontier.html. Models: by default the tiny
Qwen3 of the repository. A part that DIR/parts already holds is not measured again: delete it to do so. The report is made
from all of DIR/parts, so that a frontier may be measured piece by piece.

  --contexts LIST   512,2048,8192 by default
  --page-tokens LIST  sizes of pages, 64,128 by default; rows of other pages than 64 end in " p128"
  --budgets LIST    page bits of mixes; none: no mixes. By default those of the goals
  --label NAME      goes into the names of parts: other codecs of a model, length and page size are parts of their own
  --peers FILE      rows of others with the same keys, to be shown beside; any number of times

A default run of the tiny model takes about an hour of one core; of SmolLM2 eight times as long: choose what to measure.
  bench/frontier.sh --model "$(bench/smollm2.sh)" --contexts 2048 --page-tokens 128 --budgets none \
    -- --codecs int8,tcq4,tcq4/tcq3,tcq3,tcq3/tcq2,tcq2
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$root/build/frontier
contexts=512,2048,8192
page_tokens=64,128
budgets=2.2,2.3,2.7,2.8,3.2,3.3,3.8,4.2,4.3,8.5
label=
models=() peers=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --help|-h) usage; exit 0 ;;
    --) shift; break ;;
    --out|--model|--contexts|--page-tokens|--budgets|--label|--peers)
      [[ $# -ge 2 ]] || { echo "bench/frontier.sh: $1 needs a value; see bench/frontier.sh --help" >&2; exit 2; }
      case $1 in
        --out) out=$(realpath --canonicalize-missing "$2") ;;
        --model) models+=("$(realpath "$2")") ;;
        --contexts) contexts=$2 ;;
        --page-tokens) page_tokens=$2 ;;
        --budgets) budgets=$2 ;;
        --label) label=-$2 ;;
        --peers) peers+=("$(realpath "$2")") ;;
      esac
      shift 2 ;;
    *) echo "bench/frontier.sh: unknown option '$1'; see bench/frontier.sh --help" >&2; exit 2 ;;
  esac
done
cd "$root"
[[ ${#models[@]} -gt 0 ]] || models=("$root/tests/models/qwen3-tiny")

bash .ci/packages build bench
mkdir -p build "$out/parts"
echo "== building (log: build/release.log)"
{
  cmake --preset release
  cmake --build --preset release --parallel "$(nproc)" --target quire-ppl quire-calibrate
} >build/release.log 2>&1 || { tail -n 40 build/release.log >&2; exit 1; }

# calibrate MODEL PAGES CALIBRATION
calibrate() {
  local search=()
  [[ $budgets == none ]] || search=(--budget "$budgets")
  build/release/bench/quire-calibrate --model "$1" --page-tokens "$2" --tokens 8192 --out "$3.new" "${search[@]}" | tee "$3.txt"
  mv "$3.new" "$3"
}

mixes=()
if [[ $budgets != none ]]; then
  for budget in ${budgets//,/ }; do mixes+=(--mixes "$budget"); done
fi
for model in "${models[@]}"; do
  for pages in ${page_tokens//,/ }; do
    name=$(basename "$model")-p$pages
    calibration=$out/parts/$name.calibration
    if [[ ! -e $calibration ]]; then
      echo "== $name: calibrating"
      calibrate "$model" "$pages" "$calibration"
    fi
    for context in ${contexts//,/ }; do
      part=$out/parts/$name-$context$label.json
      [[ ! -e $part ]] || continue
      echo "== $name$label at $context tokens"
      build/release/bench/quire-ppl --frontier --contexts "$context" --model "$model" --page-tokens "$pages" \
        --calibration "$calibration" "${mixes[@]}" --json "$part.new" "$@"
      mv "$part.new" "$part"
    done
  done
done

echo "== all of it"
/usr/bin/python3 -B bench/frontier.py --out "$out" "$out"/parts/*.json "${peers[@]}"
echo "report: $out/frontier.html"
echo "rows:   $out/frontier.json"
