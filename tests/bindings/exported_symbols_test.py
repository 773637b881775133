#!/usr/bin/env python3
"""The shared library exports exactly the functions that quire.h declares.

usage: exported_symbols_test.py QUIRE_H LIBQUIRE_SO
"""

import re
import subprocess
import sys
from pathlib import Path


def declared(header):
    text = re.sub(r"/\*.*?\*/", "", Path(header).read_text(encoding="utf-8"), flags=re.DOTALL)
    return set(re.findall(r"\bQUIRE_API(?:_VOID)?\s[^;#]*?\b(quire_\w+)\(", text))


def exported(library):
    lines = subprocess.run(
        ["nm", "--dynamic", "--defined-only", library], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    symbols = [line.split()[-2:] for line in lines]
    return {name.split("@")[0] for kind, name in symbols if kind != "A"}  # A: the version's own name


def main(header, library):
    want, have = declared(header), exported(library)
    for name in sorted(want - have):
        print(f"{name} is declared in quire.h and not exported")
    for name in sorted(have - want):
        print(f"{name} is exported and not declared in quire.h")
    print(f"[counts] cases={len(want)}")
    return 0 if want == have and want else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
