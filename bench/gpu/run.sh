#!/usr/bin/env bash
# Checks and times Quire's CUDA kernels on the GPU of this machine; everything it needs lies beside it.
#
#   run.sh [--out OUT] [-- OPTIONS OF quire-gpu]
#
# Example: run.sh --out /tmp/report -- --cases attend --codecs rot4
# Leaves OUT/gpu.json, OUT/generate.json and OUT/tests.log; OUT is . by default. Takes a few minutes. Ends with 1 when
# there is no GPU or a test fails.
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
mkdir -p "$out"
bundle=$(mktemp -d)
trap 'rm -rf "$bundle"' EXIT
here=$(dirname "${BASH_SOURCE[0]}")
LD_LIBRARY_PATH=$here "$here/xz" --decompress --stdout "$here/files.tar.xz" | tar --extract --directory "$bundle"

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
if sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null); then
  slice='CudaAttend.SeesSinks*:CudaStaged.*F64:CudaStaged.*Sinks:*Leaves*:CudaCopy*:CudaEngine*Bytes*:CudaEngine*MixedPlaces*'
  tests "memcheck" "$sanitizer" --error-exitcode 1 "$bundle/quire-gpu-tests" --gtest_brief=1 "--gtest_filter=$slice"
  tests "racecheck" "$sanitizer" --tool racecheck --error-exitcode 1 "$bundle/quire-gpu-tests" --gtest_brief=1 \
    '--gtest_filter=CudaAttend.SeesSinks*:*Leaves*rot*:CudaStaged.*F64:CudaStaged.*Sinks'
else
  echo "== compute-sanitizer is not installed: its checks are left out"
fi

# The decoder multiplies with cuBLAS, which comes with the CUDA toolkit or as a Python package.
cublas() {
  local folder
  for folder in /usr/local/cuda/lib64 "$(python3 -c 'import nvidia; print(nvidia.__path__[0] + "/cu13/lib")' 2> /dev/null)"; do
    compgen -G "$folder/libcublas.so.13*" > /dev/null && echo "$folder" && return
  done
  ldconfig -p 2> /dev/null | sed -n 's|.*=> \(.*\)/libcublas\.so\.13$|\1|p' | grep -m 1 .
}
decoder() { # PROGRAM OPTIONS...: on the tiny model, with all of the cache on the device
  LD_LIBRARY_PATH=$bundle/lib:$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$bundle/$1" --model "$bundle/model" \
    --device cuda --device-budget 1G "${@:2}"
}
if folder=$(cublas); then
  echo "== the decoder on the device"
  text=$bundle/model/text_end.txt
  decoder quire-generate --prompt-file "$text" -n 64 --codec rot4/rot4 --json "$out/generate.json"
  echo "== its quality against the CPU's figures"
  decoder quire-ppl --text "$text" --gate "$bundle/quality.json" ||
    { echo "run.sh: the decoder on the device is worse than on the CPU" >&2; exit 1; }
else
  echo "== libcublas.so.13 is not installed (pip install nvidia-cublas): the decoder is left out"
fi
echo "== times"
"$bundle/quire-gpu" --json "$out/gpu.json" "${options[@]}"
