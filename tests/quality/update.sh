#!/usr/bin/env bash
# Writes the baselines of tests/quality anew from this machine's runs (margins stay) and shows what changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

case ${1-} in
  "") ;;
  --help|-h) sed -n '2s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
  *) echo "tests/quality/update.sh: unknown option '$1'; it takes none" >&2; exit 2 ;;
esac

# Every codec for both sides, and pairs that are recommended; of the real model, which takes a minute, the default and the fewest
# bits that are.
codecs=int8,int4,int3,int2,rot4,rot4/rot3,rot3,rot3/rot2,rot2,tcq4,tcq3,tcq3/tcq2,tcq2,tcq2/tcq1,nuq4,nuq3,nuq2
real_codecs=rot4,tcq3/tcq2

bash .ci/packages build bench
mkdir -p build/logs
echo "== building (log: build/logs/quality.log)"
{
  cmake --preset release
  cmake --build --preset release --parallel "$(nproc)" --target quire-ppl
} >build/logs/quality.log 2>&1 || { tail -n 40 build/logs/quality.log >&2; exit 1; }
ppl=build/release/bench/quire-ppl
tiny=tests/models/qwen3-tiny
"$ppl" --model "$tiny" --text "$tiny/text_end.txt" --codecs "$codecs" --windows 2 --baseline tests/quality/baseline.json
if real=$(bench/smollm2.sh); then
  "$ppl" --model "$real" --codecs "$real_codecs" --windows 2 --baseline tests/quality/smollm2.json
else
  echo "tests/quality/smollm2.json stays as it is"
fi
git --no-pager diff --stat --patch --unified=0 -- tests/quality
