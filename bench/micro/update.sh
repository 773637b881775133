#!/usr/bin/env bash
# Writes bench/micro/pinned.json and counts.md anew, with the compiler of this machine, and shows what changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

case ${1-} in
  "") ;;
  --help|-h) sed -n '2s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
  *) echo "bench/micro/update.sh: unknown option '$1'; it takes none" >&2; exit 2 ;;
esac

bash .ci/packages build bench micro tests
mkdir -p build/logs
echo "== building (log: build/logs/micro.log)"
{
  cmake --preset release -DQUIRE_TESTS=ON -DQUIRE_MICRO=ON
  cmake --build --preset release --parallel "$(nproc)" --target quire-micro-pins quire-micro-steps
} >build/logs/micro.log 2>&1 || { tail -n 40 build/logs/micro.log >&2; exit 1; }
/usr/bin/python3 -B bench/micro/section_counts.py build/release/bench/micro/quire-micro-steps >build/logs/counts.md
mv build/logs/counts.md bench/micro/counts.md
git --no-pager diff --stat --patch --unified=0 -- bench/micro/pinned.json bench/micro/counts.md
