#!/usr/bin/env bash
# Prints the path of cuobjdump, which reads machine code: the toolkit's, or that of the package nvidia-cuda-cuobjdump on
# PyPI, which the first call unpacks into build/cuobjdump. Exits with 3 when it cannot be had.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fail() { echo "tests/cuda/cuobjdump.sh: $1" >&2; exit 3; }

if PATH=$PATH:/usr/local/cuda/bin command -v cuobjdump; then exit 0; fi
folder=build/cuobjdump
program=$folder/nvidia/cu13/bin/cuobjdump
if [[ ! -f $program ]]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  for package in nvidia-cuda-cuobjdump==13.5.37 nvidia-cuda-nvdisasm==13.5.37; do  # the first runs the second
    python3 -m pip download --quiet --disable-pip-version-check --retries 1 --timeout 20 --no-deps --dest "$work" \
      "$package" >"$work/log" 2>&1 || fail "$package cannot be had from PyPI: $(tail -n 1 "$work/log")"
  done
  for wheel in "$work"/*.whl; do python3 -m zipfile --extract "$wheel" "$folder"; done
  chmod +x "$folder"/nvidia/cu13/bin/*
fi
echo "$PWD/$program"
