#!/usr/bin/env bash
# Installs the build into a scratch prefix, then builds and runs both examples against it: by find_package and
# by pkg-config, shared and static.
# usage: installed_package_test.sh SOURCE_DIR BUILD_DIR
set -euo pipefail

examples=$1/bindings
consumer=$1/tests/bindings/consumer
build=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
prefix=$scratch/prefix
runs=0

run_example() {
  echo "-- $*"
  env "$@" | tee "$scratch/output"
  grep -q '2048 tokens in' "$scratch/output"
  runs=$((runs + 1))
}

cmake --install "$build" --prefix "$prefix" >/dev/null
library=$(cd "$prefix" && dirname "$(find . -name libquire.so | sed 's|^\./||')")

echo "-- installed files"
diff <(cd "$prefix" && find . ! -type d | sed 's|^\./||' | LC_ALL=C sort) <(LC_ALL=C sort <<END
include/quire.h
include/quire.hpp
$library/cmake/quire/quireConfig.cmake
$library/cmake/quire/quireConfigVersion.cmake
$library/cmake/quire/quireTargets-release.cmake
$library/cmake/quire/quireTargets.cmake
$library/libquire.a
$library/libquire.so
$library/libquire.so.0
$library/libquire.so.0.1.0
$library/pkgconfig/quire.pc
END
)
# A package that names its build or source tree works on this machine only.
if grep -rlF -e "$build" -e "$1" "$prefix/include" "$prefix/$library/cmake" "$prefix/$library/pkgconfig"; then
  echo "the files above name the tree they were built in" >&2
  exit 1
fi

cmake -S "$consumer" -B "$scratch/consumer" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" -DEXAMPLES="$examples" >/dev/null
cmake --build "$scratch/consumer" >/dev/null
for program in c_quire cpp_quire c_quire_static cpp_quire_static; do
  run_example "$scratch/consumer/$program"
done

export PKG_CONFIG_PATH=$prefix/$library/pkgconfig
read -ra shared <<<"$(pkg-config --cflags --libs quire)"
cc -std=c11 "$examples/c/example.c" -o "$scratch/c" "${shared[@]}"
c++ -std=c++17 "$examples/cpp/example.cpp" -o "$scratch/cpp" "${shared[@]}"
run_example LD_LIBRARY_PATH="$prefix/$library" "$scratch/c"
run_example LD_LIBRARY_PATH="$prefix/$library" "$scratch/cpp"

read -ra static <<<"$(pkg-config --static --cflags --libs quire)"
cc -std=c11 -static "$examples/c/example.c" -o "$scratch/c_static" "${static[@]}"
run_example "$scratch/c_static"
echo "[counts] cases=$runs"
