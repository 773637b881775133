#!/usr/bin/env bash
# Checks and times the CUDA kernels on the GPU of this machine: the tests of tests/cuda, the whole engine's among them, with
# the kernels as nvcc builds them, a slice of them under compute-sanitizer where it is installed, the decoder on the tiny
# model, then quire-gpu. Leaves OUT/gpu.json.
#
#   bench/gpu.sh [--out OUT] [-- OPTIONS OF quire-gpu]     builds here and runs here
#   bench/gpu.sh --bundle DIR                              builds into DIR what runs where nothing is installed: DIR/run.sh
#
# Example: bench/gpu.sh --bundle /media/stick/quire-gpu; there: /media/stick/quire-gpu/run.sh --out /tmp/report
# Ends with 1 when there is no GPU or a test fails, 2 for bad input. QUIRE_CUDA_ARCHITECTURES chooses what is compiled
# (80;90;100;120 by default, with PTX for what comes later).
set -euo pipefail

usage() { sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
bad_input() { echo "bench/gpu.sh: $1; --help explains" >&2; exit 2; }

out=build/report bundle="" options=()
while (($#)); do
  case $1 in
    --help|-h) usage; exit 0 ;;
    --out|--bundle) (($# > 1)) || bad_input "$1 needs a folder"
      if [[ $1 == --out ]]; then out=$2; else bundle=$2; fi; shift 2 ;;
    --) shift; options=("$@"); break ;;
    *) bad_input "'$1' is no option" ;;
  esac
done
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
absolute() { [[ $1 == /* ]] && echo "$1" || echo "$here/$1"; }

if [[ -z $bundle ]] && ! compgen -G '/dev/nvidia[0-9]*' > /dev/null && ! nvidia-smi -L > /dev/null 2>&1; then
  echo "bench/gpu.sh: this machine has no NVIDIA GPU (no /dev/nvidia0, nvidia-smi lists none); run it where one is, or take a bundle there (--bundle DIR)" >&2
  exit 1
fi
command -v nvcc > /dev/null || PATH=$PATH:/usr/local/cuda/bin
command -v nvcc > /dev/null || { echo "bench/gpu.sh: there is no nvcc on the PATH; install the CUDA toolkit, 12.8 or later" >&2; exit 1; }
command -v xz > /dev/null || { echo "bench/gpu.sh: there is no xz on the PATH; install xz-utils" >&2; exit 1; }
architectures=${QUIRE_CUDA_ARCHITECTURES:-80-real;90-real;100-real;120}
cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DQUIRE_CUDA=ON -DQUIRE_TESTS=ON -DQUIRE_BENCH=ON \
  -DQUIRE_MICRO=OFF "-DCMAKE_CUDA_ARCHITECTURES=$architectures" > build-gpu.log 2>&1 || { tail -5 build-gpu.log >&2; exit 1; }
rm -f build-gpu.log
cmake --build build/gpu --parallel "${QUIRE_JOBS:-$(nproc)}" --target quire-gpu quire-gpu-tests quire-generate quire-ppl

target=${bundle:+$(absolute "$bundle")}
target=${target:-$PWD/build/gpu/bundle}
files=build/gpu/files
rm -rf "$files"
mkdir -p "$target" "$files/lib" "$files/model"
for program in bench/gpu/quire-gpu tests/cuda/quire-gpu-tests bench/quire-generate bench/quire-ppl; do
  strip -o "$files/$(basename "$program")" "build/gpu/$program"
done
# What the decoder's programs load, but for the C library, which the loader of that machine has to match.
ldd build/gpu/bench/quire-generate build/gpu/bench/quire-ppl | awk '$2 == "=>" { print $3 }' | sort -u |
  grep -v -E '/(libc|libm|libpthread|libdl|librt)\.so' | while read -r library; do
    strip -o "$files/lib/$(basename "$library")" "$library"
  done
model=tests/models/qwen3-tiny
install -m 644 $model/{config.json,generation_config.json,model.safetensors,tokenizer.json,text_end.txt} "$files/model"
python3 -B bench/gpu/quality.py tests/quality/baseline.json "$files/quality.json"
# Three of the files hold all the kernels: a dictionary of their size finds them again. What unpacks them goes along.
tar --create --directory "$files" . | xz --lzma2=preset=6,dict=64MiB > "$target/files.tar.xz"
install -m 755 "$(command -v xz)" "$target/xz"
ldd "$target/xz" | awk '/liblzma/ { print $3 }' | xargs -r install -m 644 -t "$target"
install -m 755 bench/gpu/run.sh "$target/run.sh"
if [[ -n $bundle ]]; then
  du -sh --apparent-size "$target"
  echo "run $target/run.sh on a machine with a GPU and an NVIDIA driver for CUDA 13 or later"
else
  "$target/run.sh" --out "$(absolute "$out")" -- "${options[@]}"
fi
