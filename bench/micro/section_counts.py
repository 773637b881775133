#!/usr/bin/env python3
"""Counts what the processor executes for one 64-token section of attention, by phase, and prints tables.

usage: section_counts.py QUIRE_MICRO_STEPS [ISA:CODEC:ROWS ...]

With names, one table of phases; without, the text of counts.md. A codec may be followed by /pre_rope. Three sections are stepped through, and one;
half of the difference is a section. A phase is a function, apart from the loop in it that multiplies. "dots" are
integer dot instructions, "fma" fused multiply-adds, "vector" others on vectors, loads and broadcasts included,
"moves" vector copies and spills that the compiler added, "prefetch" and "other" the rest.
"""

import collections
import re
import subprocess
import sys

import hot_loops

CODECS = ("bf16", "int8", "int4", "int3", "int2", "rot4", "rot3", "rot2")
ROWS = ("2", "4", "8")
SHOWN = ("avx512:rot4:2", "avx512:rot4:4", "avx512:rot4:8", "avx512:int4:4", "avx512:int8:4", "avx512:bf16:4",
         "avx512:rot4/pre_rope:4", "avx512:int4/pre_rope:4", "avxvnni:rot4:4", "avx2:rot4:4")
PRODUCTS = {"avx512": (64, 16), "avxvnni": (32, 8), "avx2": (16, 8)}  # of one dot instruction, of one fma
KINDS = ("dots", "fma", "vector", "moves", "prefetch", "other")


def phases_of(program):
    """{address: (phase, kind)} of every instruction of the kernels."""
    at = {}
    for name, body in hot_loops.functions(hot_loops.disassemble(program)):
        integer = any(hot_loops.INTEGER_DOT.match(mnemonic) for _, mnemonic, _ in body)
        dot = hot_loops.INTEGER_DOT if integer else hot_loops.FLOAT_DOT
        inside = {address for loop in hot_loops.innermost_loops(body)
                  if any(dot.match(mnemonic) for _, mnemonic, _ in loop) for address, _, _ in loop}
        plain = re.sub(r".*N_AVX\w+::", "", re.sub(r"[<(].*", "", re.sub(r" \[clone.*", "", name.split("<quire")[0])))
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
    counts = steps(program, isa, codec, rows, 3)
    counts.subtract(steps(program, isa, codec, rows, 1))
    table = collections.defaultdict(collections.Counter)
    for address, count in counts.items():
        phase, what = at.get(address, ("elsewhere", "other"))
        table[phase][what] += count / 2
    return table


def total(table):
    return sum(table.values(), collections.Counter())


def print_phases(program, at, names):
    print("| isa, codec, rows | phase | " + " | ".join(KINDS) + " |\n|" + " --- |" * (len(KINDS) + 2))
    for name in names:
        table, title = section(program, at, *name.split(":")), name.replace(":", " ")
        for phase, counts in table.items():
            if round(sum(counts.values())) > 0:
                print(f"| {title} | {phase} | " + " | ".join(f"{counts[kind]:.0f}" for kind in KINDS) + " |")
        print(f"| {title} | **all** | " + " | ".join(f"**{total(table)[kind]:.0f}**" for kind in KINDS) + " |")


def times(program, isa, codec, rows):
    """Nanoseconds of a section, of an integer multiply-accumulate at its peak, and of a float one."""
    done = subprocess.run([program, isa, codec, rows, "0"], check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


def print_times(program, at, isa):
    """Instructions and times in cache of every codec; the share is that of the multiply-accumulates at their peak."""
    print("| isa, codec | " + " | ".join(f"{rows} rows: ns, dots, all, share" for rows in ROWS) + " |\n" +
          "|" + " --- |" * (len(ROWS) + 1))
    spent = {(codec, rows): times(program, isa, codec, rows) for codec in CODECS for rows in ROWS}
    peaks = [min(entry[i] for entry in spent.values()) for i in (1, 2)]
    for codec in CODECS:
        cells = []
        for rows in ROWS:
            counts, nanoseconds = total(section(program, at, isa, codec, rows)), spent[codec, rows][0]
            is_float = codec == "bf16"
            dots = counts["fma" if is_float else "dots"]
            share = dots * PRODUCTS[isa][is_float] * peaks[is_float] / nanoseconds
            cells.append(f"{nanoseconds:.0f}, {dots:.0f}, {sum(counts.values()):.0f}, {share:.2f}")
        print(f"| {isa} {codec} | " + " | ".join(cells) + " |")


def processor():
    """The processor's name, as Linux has it."""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "this machine")


def print_document(program, at):
    isas = [isa for isa in PRODUCTS if subprocess.run([program, isa, "rot4", "2", "0"], check=False,
                                                      capture_output=True).returncode == 0]
    print("# One section of attention, counted and timed\n"
          "Written by `update.sh`. A section is 64 tokens of one kv head at head_dim 128, in post_rope space unless named. "
          f"Times are the best of thousands of calls over 16 pages in the\nsecond-level cache, one thread of {processor()}; "
          "*share* is the time that the dots (fma for bf16) take at the measured peak.\n`section_counts.py --help` "
          "explains the kinds.\n")
    for isa in isas:
        print_times(program, at, isa)
        print()
    print_phases(program, at, [name for name in SHOWN if name.split(":")[0] in isas])


def main(arguments):
    if not arguments or arguments[0] in ("--help", "-h"):
        print(__doc__)
        return 0 if arguments else 2
    program, names = arguments[0], arguments[1:]
    for name in names:
        if len(name.split(":")) != 3:
            print(f"section_counts.py: '{name}' is not ISA:CODEC:ROWS, as avx512:rot4:4", file=sys.stderr)
            return 2
    try:
        at = phases_of(program)
        print_phases(program, at, names) if names else print_document(program, at)
    except subprocess.CalledProcessError as error:
        print(error.stderr.strip(), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
