#!/usr/bin/env bash
# What other caches cost in quality, on the models, text and windows of bench/frontier.sh.
set -euo pipefail

usage() {
  cat <<'END_OF_USAGE'
usage: bench/peers/quality.sh [--out DIR] [--model DIR_OR_FILE]... [--contexts LIST] [--tokens N]

For each model: llama.cpp with quantized caches (llama-cpp-python from PyPI, built for this processor: ten minutes, once),
and KIVI, TurboQuant and KVQuant simulated in a torch forward pass. Leaves DIR/MODEL-llama_cpp.json and
DIR/MODEL-simulated.json, lists of rows with the keys of frontier.json, for bench/frontier.sh --peers. A file that DIR holds
already is not measured again: delete it to do so. DIR is build/frontier/peers by default.

  --model      a folder with a Qwen3 or a .gguf file; by default the repository's tiny Qwen3 and SmolLM2-135M-Instruct
  --contexts   512,2048,8192 by default
  --tokens     tokens to read at each length, the last of the King James text: one number, or one for each length; 8192 by default

Everything is installed into build/peers. torch from PyPI is large: 5 GB on the disk with the CUDA libraries that it brings
along, of which nothing is used. On two idle cores the tiny model takes ten minutes and SmolLM2 two hours.
END_OF_USAGE
}

fail() { echo "bench/peers/quality.sh: $1" >&2; exit 2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=$root/build/frontier/peers
contexts=512,2048,8192 tokens=8192
models=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --help|-h) usage; exit 0 ;;
    --out|--model|--contexts|--tokens)
      [[ $# -ge 2 ]] || fail "$1 needs a value; see bench/peers/quality.sh --help"
      case $1 in
        --out) out=$(realpath --canonicalize-missing "$2") ;;
        --model) models+=("$(realpath --canonicalize-missing "$2")") ;;
        --contexts) contexts=$2 ;;
        --tokens) tokens=$2 ;;
      esac
      shift 2 ;;
    *) fail "unknown option '$1'; see bench/peers/quality.sh --help" ;;
  esac
done
[[ $contexts,$tokens =~ ^[0-9]+(,[0-9]+)+$ ]] || fail "--contexts takes lengths such as 512,2048 and --tokens a number"
cd "$root"
[[ ${#models[@]} -gt 0 ]] || models=("$root/tests/models/qwen3-tiny" "$(bench/smollm2.sh)")
for model in "${models[@]}"; do [[ -e $model ]] || fail "$model is not there; name a model's folder or a .gguf file"; done
mkdir -p build/logs "$out"

bash .ci/packages build bench peers
source bench/peers/environment.sh
build_llama_cpp
install_peer_packages

# Threads that wait for each other ought not to burn the time of those that work.
export OMP_WAIT_POLICY=passive

# part NAME SCRIPT MODEL: rows of one script over one model.
part() {
  local file=$out/$1.json
  parts+=("$file")
  [[ ! -e $file ]] || return 0
  echo "== $1"
  build/peers/bin/python "bench/peers/$2" --model "$3" --contexts "$contexts" --tokens "$tokens" --json "$file.new"
  mv "$file.new" "$file"
}

parts=()
for model in "${models[@]}"; do
  name=$(basename "$model" .gguf)
  in_gguf=$model
  if [[ -d $model ]]; then
    in_gguf=build/peers/$name.gguf
    build/peers/bin/python bench/peers/folder_to_gguf.py "$model" "$in_gguf"
  fi
  part "$name-llama_cpp" llama_cpp_quality.py "$in_gguf"
  part "$name-simulated" simulate.py "$model"
done
printf 'rows: %s\n' "${parts[@]}"
