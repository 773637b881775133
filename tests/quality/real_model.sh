#!/usr/bin/env bash
# The gate on a real pretrained model. Exits with 77, said to be a skip, when the model cannot be had.
# usage: real_model.sh QUIRE_PPL
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
code=0
model=$("$here/../../bench/smollm2.sh" 2>&1) || code=$?
if [[ $code -eq 3 ]]; then
  # As GoogleTest says it, so that tests/run.sh shows the reason.
  printf 'quality.real_model: Skipped\n%s\n' "$model"
  exit 77
fi
[[ $code -eq 0 ]] || { echo "$model" >&2; exit "$code"; }
exec "$1" --model "$(tail -n 1 <<<"$model")" --gate "$here/smollm2.json"
