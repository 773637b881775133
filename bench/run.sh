#!/usr/bin/env bash
# The main job: a real model reads a real book through a cache larger than the memory it is given.
set -euo pipefail

usage() {
  cat <<'END'
usage: bench/run.sh [--out DIR] [-- OPTIONS OF quire-scale]

Installs what is missing from Debian (as root; otherwise prints the apt line and stops), builds Release in
build/release, runs quire-scale and leaves DIR/scale.json and DIR/report.html. DIR is build/report by default.
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$root/build/report
while [[ $# -gt 0 ]]; do
  case $1 in
    --out) [[ $# -ge 2 ]] || { echo "bench/run.sh: --out needs a directory" >&2; exit 2; }
           out=$(realpath --canonicalize-missing "$2"); shift 2 ;;
    --help|-h) usage; exit 0 ;;
    --) shift; break ;;
    *) echo "bench/run.sh: unknown option '$1'; see bench/run.sh --help" >&2; exit 2 ;;
  esac
done
cd "$root"

bash .ci/packages build bench

mkdir -p build "$out"
echo "== building (log: build/release.log)"
{
  cmake --preset release -DQUIRE_TESTS=OFF -DQUIRE_MICRO=OFF
  cmake --build --preset release --parallel "$(nproc)"
} >build/release.log 2>&1 || { tail -n 40 build/release.log >&2; exit 1; }

echo "== running quire-scale"
build/release/bench/quire-scale --json "$out/scale.json" "$@"
/usr/bin/python3 bench/report.py "$out/scale.json" "$out/report.html"
echo "report: $out/report.html"
echo "rows:   $out/scale.json"
