#!/usr/bin/env python3
"""Checks the shape of the repository: what stands where, who includes whom, what no file may contain.

usage: check_tree.py ROOT

Prints one line per fault and exits with 1 when there is any. The rules are the constants below.
"""

import os
import re
import sys
from pathlib import Path

TOP_LEVEL = {
    "CMakeLists.txt", "CMakePresets.json", "README.md", "LICENSE", ".ci", ".clang-format", ".clang-tidy",
    ".gitignore", "kvcache", "quant", "offload", "bindings", "bench", "tests",
}
# Not part of the repository: version control, build trees (as .gitignore has them), Python's cache.
IGNORED = re.compile(r"^(\.git|build.*|out|__pycache__|compile_commands\.json)$")

# A folder of the library includes itself and what stands before it.
LAYERS = ["quant", "kvcache", "offload", "bindings"]
# What users include, and so the only headers of the library that bench/ and the examples may include.
PUBLIC_HEADERS = {"bindings/c/quire.h", "bindings/cpp/quire.hpp"}
# Measure kernels alone, which the public API does not show.
KERNEL_BENCHMARKS = ("bench/gpu/", "bench/micro/", "bench/peers/", "bench/tier/", "bench/trace/")
# What device code is written in, the decoder's too.
DEVICE_HEADERS = {"quant/cuda/gpu.h", "quant/cuda/numbers.cuh"}
# Files that stand on public headers alone: they are installed, or show what an embedder writes.
STANDALONE = {"bindings/c/quire.h", "bindings/cpp/quire.hpp", "bindings/c/example.c", "bindings/cpp/example.cpp"}

SOURCE_SUFFIXES = {".h", ".hpp", ".c", ".cc", ".cpp", ".cu", ".cuh", ".inc"}
TEXT_SUFFIXES = SOURCE_SUFFIXES | {".py", ".sh", ".md", ".txt", ".cmake", ".in", ".map"}
MAX_LINES = 600
LENGTH_EXEMPT_SUFFIXES = {".md"}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.])/(?:work|home|root|Users|mnt)/\w|/tmp/(?:build|briefs|bash)"),
    "a note of unfinished work": re.compile(r"\b(?:TO[D]O|FIX[M]E)\b"),
}


def files(root):
    """Every file of the tree, as a path relative to root."""
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.is_file() and not any(IGNORED.match(part) for part in relative.parts):
            yield relative


def check_top_level(root):
    for path in sorted(root.iterdir()):
        if path.name not in TOP_LEVEL and not IGNORED.match(path.name):
            yield f"{path.name}: not one of the entries that the top level holds"


def check_include(path, bracket, included):
    """The fault of one #include of a source file, or None."""
    name, folder = path.as_posix(), path.parts[0]
    target = included.split("/")[0]
    if target not in TOP_LEVEL:
        if bracket == '"':
            return "is not written from the repository's root"
        return None
    if target == "tests":
        return None if folder == "tests" else "tests are included by tests alone"
    if name in STANDALONE:
        return None if included in PUBLIC_HEADERS else "this file stands on public headers alone"
    if target == "bench":
        return None if folder in ("bench", "tests") else "bench is included by bench and tests alone"
    if folder in LAYERS:
        allowed = LAYERS[: LAYERS.index(folder) + 1]
        return None if target in allowed else f"{folder} may include {', '.join(allowed)}"
    if path.suffix == ".cu" and included in DEVICE_HEADERS:
        return None
    if folder == "bench" and not name.startswith(KERNEL_BENCHMARKS):
        return None if included in PUBLIC_HEADERS else "bench may include only public headers of the library"
    return None


def check_includes(root, path):
    text = (root / path).read_text(encoding="utf-8")
    for bracket, included in INCLUDE.findall(text):
        fault = check_include(path, bracket, included)
        if fault:
            yield f"{path}: #include {included}: {fault}"


def check_text(root, path):
    text = (root / path).read_text(encoding="utf-8")
    lines = text.splitlines()
    if len(lines) > MAX_LINES and path.suffix not in LENGTH_EXEMPT_SUFFIXES:
        yield f"{path}: {len(lines)} lines; split it by ideas, {MAX_LINES} are the limit"
    for number, line in enumerate(lines, start=1):
        for what, pattern in FORBIDDEN.items():
            if pattern.search(line):
                yield f"{path}:{number}: {what}: {line.strip()}"


def check_mode(root, path):
    """What says how it is to be run can be run so."""
    with open(root / path, "rb") as file:
        if file.read(2) == b"#!" and not os.access(root / path, os.X_OK):
            yield f"{path}: begins with #! and is not executable; chmod +x it"


def check_readme(root):
    """The README shows the C example verbatim."""
    example, readme = root / "bindings/c/example.c", root / "README.md"
    if example.is_file() and readme.is_file():
        block = f"```c\n{example.read_text(encoding='utf-8')}```"
        if block not in readme.read_text(encoding="utf-8"):
            yield "README.md: its C code is not bindings/c/example.c as it stands"


def check(root):
    """All faults of the tree, one sentence each."""
    yield from check_top_level(root)
    yield from check_readme(root)
    for path in files(root):
        if path.suffix in SOURCE_SUFFIXES:
            yield from check_includes(root, path)
        if path.suffix == ".sh":
            yield from check_mode(root, path)
        if path.suffix in TEXT_SUFFIXES or path.parts[0] == ".ci":
            yield from check_text(root, path)


def main(arguments):
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    root = Path(arguments[0]).resolve()
    faults = list(check(root))
    for fault in faults:
        print(fault)
    print(f"[counts] cases={sum(1 for _ in files(root))}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
