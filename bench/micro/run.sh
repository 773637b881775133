#!/usr/bin/env bash
# Measures the kernels against what the machine could do at best.
set -euo pipefail

usage() {
  cat <<'END_OF_USAGE'
usage: bench/micro/run.sh [--out DIR] [--quick] [-- OPTIONS OF quire-micro]

Installs what is missing from Debian (as root; otherwise prints the apt line and stops), builds Release in
build/release, runs quire-micro, prints its rows and leaves DIR/micro.json and DIR/micro.html. DIR is
build/report by default. Some minutes; with --quick less than one.
END_OF_USAGE
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=$root/build/report
options=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --out) [[ $# -ge 2 ]] || { echo "bench/micro/run.sh: --out needs a directory" >&2; exit 2; }
           out=$(realpath --canonicalize-missing "$2"); shift 2 ;;
    --quick) options+=(--quick); shift ;;
    --help|-h) usage; exit 0 ;;
    --) shift; options+=("$@"); break ;;
    *) echo "bench/micro/run.sh: unknown option '$1'; see bench/micro/run.sh --help" >&2; exit 2 ;;
  esac
done
cd "$root"

bash .ci/packages build bench micro

mkdir -p build/logs "$out"
echo "== building (log: build/logs/micro.log)"
{
  cmake --preset release -DQUIRE_TESTS=OFF -DQUIRE_MICRO=ON
  cmake --build --preset release --parallel "$(nproc)" --target quire-micro
} >build/logs/micro.log 2>&1 || { tail -n 40 build/logs/micro.log >&2; exit 1; }

echo "== running quire-micro"
build/release/bench/micro/quire-micro --json "$out/micro.json" "${options[@]}"
/usr/bin/python3 -B bench/micro/micro_report.py "$out/micro.json" "$out/micro.html"
echo "report: $out/micro.html"
echo "rows:   $out/micro.json"
