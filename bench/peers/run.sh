#!/usr/bin/env bash
# Measures Quire's attention against ggml's, in turns on the same machine.
set -euo pipefail

usage() {
  cat <<'END_OF_USAGE'
usage: bench/peers/run.sh [--out DIR] [-- OPTIONS OF quire-peers]

Builds ggml from the source package of llama-cpp-python on PyPI in build/peers, for this very processor (ten minutes,
once), builds Release in build/peers-release, runs quire-peers, prints how many times faster Quire is and leaves
DIR/peers.json. DIR is build/report by default.

QUIRE_PEERS_PREFIX names a folder that has ggml's include/ and lib/ already; then nothing is fetched.
END_OF_USAGE
}

fail() { echo "bench/peers/run.sh: $1" >&2; exit 2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=$root/build/report
while [[ $# -gt 0 ]]; do
  case $1 in
    --out) [[ $# -ge 2 ]] || fail "--out needs a directory"
           out=$(realpath --canonicalize-missing "$2"); shift 2 ;;
    --help|-h) usage; exit 0 ;;
    --) shift; break ;;
    *) fail "unknown option '$1'; see bench/peers/run.sh --help" ;;
  esac
done
cd "$root"
mkdir -p build/logs "$out"

prefix=${QUIRE_PEERS_PREFIX:-}
if [[ -n $prefix ]]; then
  prefix=$(realpath --canonicalize-missing "$prefix")
  [[ -f $prefix/include/ggml-cpu.h ]] || fail "QUIRE_PEERS_PREFIX=$prefix holds no include/ggml-cpu.h; name a folder with ggml's include/ and lib/, or leave it unset"
fi
bash .ci/packages build bench micro peers

if [[ -z $prefix ]]; then
  source bench/peers/environment.sh
  build_llama_cpp
  prefix=$(echo "$PWD"/build/peers/lib/python3*/site-packages)
fi

echo "== building (log: build/logs/peers-release.log)"
{
  cmake -S . -B build/peers-release -G Ninja -DCMAKE_BUILD_TYPE=Release -DQUIRE_TESTS=OFF -DQUIRE_MICRO=ON \
    -DQUIRE_PEERS_PREFIX="$prefix"
  cmake --build build/peers-release --parallel "$(nproc)" --target quire-peers
} >build/logs/peers-release.log 2>&1 || { tail -n 40 build/logs/peers-release.log >&2; exit 1; }

echo "== running quire-peers"
build/peers-release/bench/peers/quire-peers --json "$out/peers.json" "$@"
echo "rows: $out/peers.json"
