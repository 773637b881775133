#!/usr/bin/env bash
# The disk tier beside fio's best, on one file system, in turns.
set -euo pipefail

usage() {
  cat <<'END'
usage: bench/tier.sh [--out DIR] [--dir DIR] [--bytes N] [--rounds N]

Builds quire-tier in build/release. In every round fio writes and reads with O_DIRECT, io_uring and registered buffers at
several depths and sizes, and quire-tier writes and reads pages as the mover does; the order changes from round to round.
Leaves OUT/tier.json and prints the best and the middle of each, and their ratio.

  --out DIR    build/tier by default
  --dir DIR    where the files lie, OUT by default: the file system that is measured
  --bytes N    of a file, 1G by default; beyond the disk's own cache is better
  --rounds N   5 by default
  bench/tier.sh --dir /var/tmp --bytes 4G --rounds 9
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$root/build/tier dir='' bytes=1G rounds=5
while [[ $# -gt 0 ]]; do
  case $1 in
    --help|-h) usage; exit 0 ;;
    --out|--dir|--bytes|--rounds)
      [[ $# -ge 2 ]] || { echo "bench/tier.sh: $1 needs a value; see bench/tier.sh --help" >&2; exit 2; }
      printf -v "${1#--}" '%s' "$2"
      shift 2 ;;
    *) echo "bench/tier.sh: '$1' is unknown; see bench/tier.sh --help" >&2; exit 2 ;;
  esac
done
[[ $rounds =~ ^[1-9][0-9]*$ ]] || { echo "bench/tier.sh: --rounds '$rounds' is no number above zero" >&2; exit 2; }
mkdir -p "$out"
out=$(realpath "$out")
dir=$(realpath "${dir:-$out}")
cd "$root"
bash .ci/packages build bench tier
[[ -f build/release/build.ninja ]] || cmake --preset release -DQUIRE_BENCH=ON >/dev/null
cmake --build --preset release --target quire-tier >/dev/null
exec python3 bench/tier/compare.py --program build/release/bench/tier/quire-tier --dir "$dir" --bytes "$bytes" \
  --rounds "$rounds" --json "$out/tier.json"
