#!/usr/bin/env python3
"""Counts what the processor executes for one 64-token section of attention, by phase, and prints a table.

usage: section_counts.py QUIRE_MICRO_STEPS [ISA:CODEC:ROWS ...]

Nine sections are stepped through, and one; an eighth of the difference is a section. A phase is a function, apart
from the loop in it that multiplies. "dots" are integer dot instructions, "fma" fused multiply-adds, "vector" others
on vectors, "moves" vector copies and spills that the compiler added, "prefetch" and "other" the rest.
"""

import collections
import re
import subprocess
import sys

import hot_loops

DEFAULT = [f"avx512:{codec}:{rows}" for codec in ("bf16", "int8", "int4", "rot4", "rot3", "rot2") for rows in (2, 4, 8)]
KINDS = ("dots", "fma", "vector", "moves", "prefetch", "other")


def phases_of(program):
    """{address: (phase, kind)} of every instruction of the kernels."""
    at = {}
    for name, body in hot_loops.functions(hot_loops.disassemble(program)):
        integer = any(hot_loops.INTEGER_DOT.match(mnemonic) for _, mnemonic, _ in body)
        dot = hot_loops.INTEGER_DOT if integer else hot_loops.FLOAT_DOT
        inside = {address for loop in hot_loops.innermost_loops(body)
                  if any(dot.match(mnemonic) for _, mnemonic, _ in loop) for address, _, _ in loop}
        plain = re.sub(r".*N_AVX\d::", "", re.sub(r"[<(].*", "", re.sub(r" \[clone.*", "", name.split("<quire")[0])))
        for address, mnemonic, operands in body:
            at[address] = (plain + (", product" if address in inside else ""), kind(mnemonic, operands))
    return at


def kind(mnemonic, operands):
    if hot_loops.INTEGER_DOT.match(mnemonic):
        return "dots"
    if hot_loops.FLOAT_DOT.match(mnemonic):
        return "fma"
    if mnemonic.startswith("prefetch"):
        return "prefetch"
    if hot_loops.moves(mnemonic, operands):
        return "moves"
    return "vector" if mnemonic.startswith("v") else "other"


def steps(program, isa, codec, rows, sections):
    done = subprocess.run([program, isa, codec, rows, str(sections)], check=True, capture_output=True, text=True)
    lines = (line.split() for line in done.stdout.splitlines())
    return collections.Counter({int(address, 16): int(count) for address, count in lines})


def section(program, at, isa, codec, rows):
    """{phase: {kind: instructions}} of one section."""
    counts = steps(program, isa, codec, rows, 9)
    counts.subtract(steps(program, isa, codec, rows, 1))
    table = collections.defaultdict(collections.Counter)
    for address, count in counts.items():
        phase, what = at.get(address, ("elsewhere", "other"))
        table[phase][what] += count / 8
    return table


def print_section(name, table):
    for phase, counts in table.items():
        if round(sum(counts.values())) > 0:
            print(f"| {name} | {phase} | " + " | ".join(f"{counts[kind]:.0f}" for kind in KINDS) + " |")
    total = sum(table.values(), collections.Counter())
    print(f"| {name} | **all** | " + " | ".join(f"**{total[kind]:.0f}**" for kind in KINDS) + " |")


def main(arguments):
    if not arguments or arguments[0] in ("--help", "-h"):
        print(__doc__)
        return 0 if arguments else 2
    program, wanted = arguments[0], arguments[1:] or DEFAULT
    at = phases_of(program)
    print("| isa, codec, rows | phase | " + " | ".join(KINDS) + " |\n|" + " --- |" * (len(KINDS) + 2))
    for name in wanted:
        try:
            isa, codec, rows = name.split(":")
            print_section(f"{isa} {codec} {rows}", section(program, at, isa, codec, rows))
        except ValueError:
            print(f"section_counts.py: '{name}' is not ISA:CODEC:ROWS, as avx512:rot4:4", file=sys.stderr)
            return 2
        except subprocess.CalledProcessError as error:
            print(error.stderr.strip(), file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
