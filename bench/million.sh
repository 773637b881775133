#!/usr/bin/env bash
# One million tokens on one machine: the whole King James text read by the tiny model, and the caches of larger ones.
set -euo pipefail

usage() {
  cat <<'END'
usage: bench/million.sh [--out DIR] [--part a|b|ab] [--codecs LIST] [--shapes LIST] [--tokens N] [--threads N]
                        [-- OPTIONS OF quire-scale]

Builds Release in build/release and leaves DIR/million.json (quire-scale's keys; all parts that are there) and
DIR/report.html. A run that DIR/parts already holds is not measured again: delete it to do so.

  a  the tiny model reads the King James text with ten pass keys under 256 MiB of host memory, the prompt with selected
     pages, for bf16/bf16,int8/int8,rot4/rot4,tcq3/tcq3,tcq2/tcq2; it answers twice, over a quarter of the pages and
     over all
  b  generated keys and values of qwen3-0.6b and qwen3-8b, rot4/rot4,tcq3/tcq2,tcq2/tcq2: four tokens decoded over
     every page, then four over selected pages

  --out DIR       build/million by default
  --codecs LIST   instead of a part's own
  --shapes LIST   of part b: qwen3-0.6b,qwen3-8b
  --tokens N      1005755 in part a (all of the text) and 1048576 in part b; fewer for a trial
  --threads N     as many as cores by default
END
}

fail() { echo "bench/million.sh: $1" >&2; exit 2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$root/build/million
part=ab codecs='' shapes=qwen3-0.6b,qwen3-8b tokens='' threads=$(nproc)
while [[ $# -gt 0 ]]; do
  case $1 in
    --help|-h) usage; exit 0 ;;
    --) shift; break ;;
    --out|--part|--codecs|--shapes|--tokens|--threads)
      [[ $# -ge 2 ]] || fail "$1 needs a value; see bench/million.sh --help"
      case $1 in
        --out) out=$(realpath --canonicalize-missing "$2") ;;
        --part) part=$2 ;;
        --codecs) codecs=$2 ;;
        --shapes) shapes=$2 ;;
        --tokens) tokens=$2 ;;
        --threads) threads=$2 ;;
      esac
      shift 2 ;;
    *) fail "unknown option '$1'; see bench/million.sh --help" ;;
  esac
done
[[ $part =~ ^(a|b|ab)$ ]] || fail "--part is '$part'; use a, b or ab"
[[ -z $tokens || $tokens =~ ^[0-9]+$ ]] || fail "--tokens is '$tokens'; use a number"
cd "$root"

bash .ci/packages build bench
mkdir -p build "$out/parts"
echo "== building (log: build/release.log)"
{
  cmake --preset release
  cmake --build --preset release --parallel "$(nproc)" --target quire-scale
} >build/release.log 2>&1 || { tail -n 40 build/release.log >&2; exit 1; }

# measure NAME OPTIONS...: one row, or two, in parts/NAME.json.
measure() {
  local file=$out/parts/$1.json
  shift
  if [[ ! -e $file ]]; then
    echo "== $(basename "$file" .json)"
    build/release/bench/quire-scale --threads "$threads" --nvme-path "$out" --nvme-budget 64G --json "$file.new" "$@"
    mv "$file.new" "$file"
  fi
}

# need_room BYTES WHAT: the spill file lies in --out.
need_room() {
  local free
  free=$(df --output=avail -B1 "$out" | tail -n 1)
  (( free >= $1 )) && return
  fail "$2 needs $(( $1 >> 30 )) GiB under $out, $(( free >> 30 )) are free; name another folder with --out"
}

# Bytes of a cache: tokens, layers, kv heads, codec pair; head_dim 128, a twentieth for padding.
cache_bytes() {
  python3 -B - "$@" <<'END'
import sys
tokens, layers, heads, pair = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
bits = sum(16.1 if side == "bf16" else float(side[-1]) + .4 for side in (pair.split("/") * 2)[:2])
print(int(tokens * layers * heads * 128 * bits / 8 * 1.05))
END
}

if [[ $part == *a* ]]; then
  context=${tokens:-1005755}
  for pair in $(tr , ' ' <<<"${codecs:-bf16/bf16,int8/int8,rot4/rot4,tcq3/tcq3,tcq2/tcq2}"); do
    need_room "$(cache_bytes "$context" 4 2 "$pair")" "$pair at $context tokens"
    measure "a-$context-${pair//\//-}" --contexts "$context" --codecs "$pair" --host-budget 256M --needles 10 --decode 16 \
      --select share:.25 --also-select none --select-window 1024 --sparse-prefill top:64 --prefill-window 1024 --reference none "$@"
  done
fi

if [[ $part == *b* ]]; then
  context=${tokens:-1048576}
  for shape in $(tr , ' ' <<<"$shapes"); do
    layers=28
    [[ $shape == qwen3-8b ]] && layers=36
    for pair in $(tr , ' ' <<<"${codecs:-rot4/rot4,tcq3/tcq2,tcq2/tcq2}"); do
      need_room "$(cache_bytes "$context" "$layers" 8 "$pair")" "$shape with $pair at $context tokens"
      measure "b-$shape-$context-${pair//\//-}" --fill synthetic --shape "$shape" --contexts "$context" --codecs "$pair" \
        --host-budget 4G --decode 4 --select top:256 --select-window 1024 "$@"
    done
  done
fi

python3 -B - "$out" <<'END'
import json
import pathlib
import sys

out = pathlib.Path(sys.argv[1])
parts = [json.loads(path.read_text()) for path in sorted((out / "parts").glob("*.json"))]
rows = [row for part in parts for row in part["rows"]]


def of(row):
    return row["context"], row["selection"]


# Runs of one text, length and choice of pages are compared with the one that folded nothing.
exact = {of(row): row["ppl"] for row in rows if row["codec"] == "bf16/bf16" and row["ppl"] is not None}
for row in rows:
    if row["ppl"] is not None and row["ppl_ref"] is None:
        row["ppl_ref"] = exact.get(of(row))
options = parts[-1]["options"] if parts else {}
(out / "million.json").write_text(json.dumps({"options": options, "rows": rows}, indent=1) + "\n")
END
/usr/bin/python3 -B bench/report.py "$out/million.json" "$out/report.html"
echo "report: $out/report.html"
echo "rows:   $out/million.json"
