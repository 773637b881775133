#!/usr/bin/env bash
# Checks and times Quire's CUDA kernels on the GPU of this machine; everything it needs lies beside it.
#
#   run.sh [--out OUT] [-- OPTIONS OF quire-gpu]
#
# Example: run.sh --out /tmp/report -- --cases attend --codecs rot4
# Leaves OUT/gpu.json and OUT/tests.log; OUT is . by default. Takes a minute or two. Ends with 1 when there is no GPU or
# a test fails.
set -euo pipefail
out=. options=()
while (($#)); do
  case $1 in
    --help|-h) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    --out) (($# > 1)) || { echo "run.sh: --out needs a folder" >&2; exit 2; }; out=$2; shift 2 ;;
    --) shift; options=("$@"); break ;;
    *) echo "run.sh: '$1' is no option; --help explains" >&2; exit 2 ;;
  esac
done
bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$out"

tests() { # NAME COMMAND...: runs the tests, shows their sum or what failed
  local name=$1
  shift
  echo "== $name"
  if "$@" >> "$out/tests.log" 2>&1; then
    grep -E '^\[  PASSED|ERROR SUMMARY|RACECHECK SUMMARY' "$out/tests.log" | tail -2
  else
    echo "run.sh: $name failed; the end of $out/tests.log:" >&2
    tail -30 "$out/tests.log" >&2
    exit 1
  fi
}
: > "$out/tests.log"
tests "tests on the device" "$bundle/quire-gpu-tests" --gtest_brief=1
tests "the engine on the device" "$bundle/quire-gpu-engine-tests" --gtest_brief=1
if sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null); then
  slice='CudaAttend.SeesSinks*:CudaAttend.*Staged*Pages:*Leaves*:CudaCopy*'
  tests "memcheck" "$sanitizer" --error-exitcode 1 "$bundle/quire-gpu-tests" --gtest_brief=1 "--gtest_filter=$slice"
  tests "memcheck of the engine" "$sanitizer" --error-exitcode 1 "$bundle/quire-gpu-engine-tests" --gtest_brief=1 \
    '--gtest_filter=*Bytes*:*MixedPlaces*'
  tests "racecheck" "$sanitizer" --tool racecheck --error-exitcode 1 "$bundle/quire-gpu-tests" --gtest_brief=1 \
    '--gtest_filter=CudaAttend.SeesSinks*:*Leaves*rot*:CudaAttend.*Staged*Pages'
else
  echo "== compute-sanitizer is not installed: its checks are left out"
fi
echo "== times"
"$bundle/quire-gpu" --json "$out/gpu.json" "${options[@]}"
