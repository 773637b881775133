#!/usr/bin/env python3
"""The cycles below which one 64-token section of attention cannot take with AVX-512, from the instructions it executes.

usage: port_bounds.py QUIRE_MICRO_STEPS ROWS CODEC[/pre_rope] ...

Instructions are counted by single steps, as section_counts.py counts them, in units of 512 bits: 256 and fewer are half.
- multiply: dots, multiply-adds, multiplications and scalings by powers of two
- shuffle: permutations, shifts, extractions and narrowing
- vector: all arithmetic on vectors, those two kinds included
- load, store: vectors read from memory, operands of instructions and broadcasts included, and written

What is known of two kinds of machine. Zen 4, measured with loops of one and two instructions on registers: 1 multiply a
cycle, 1.5 multiplies and shuffles, 2 vectors, 1 load (2 broadcasts), half a store. Intel from Ice Lake to Emerald
Rapids, from public tables: 2 vectors a cycle, 2 loads, 1 store, 5 instructions of any kind. `share` is the time of the
dots at their peak, 1 a cycle and 2, over the largest of these: what the kernel as it is could reach with its
data in the first cache, no wait and no conflict.
"""

import re
import subprocess
import sys

import hot_loops
import section_counts

MULTIPLY = re.compile(r"^v(pdp|pmul|pmadd|fn?m(add|sub)|mulps|scalef)")
SHUFFLE = re.compile(r"^v(perm|ps(ll|rl|ra)|prol|pror|punpck|unpck|extract|insert|pshuf|shuf|align|pmov|palignr|phmin)")
BROADCAST = re.compile(r"^vp?broadcast")
MEMORY = re.compile(r"\(.*\)")


def classify(mnemonic, operands):
    """{class: units} of one instruction; AT&T order, the last operand is written."""
    units = {"instructions": 1.0}
    if not mnemonic.startswith("v") or mnemonic == "vzeroupper":
        return units
    width = 1.0 if "zmm" in operands else 0.5
    sources, _, target = operands.rpartition(",") if not operands.endswith(")") else (operands, "", operands)
    writes = operands.endswith(")") and "%" in operands.split("(")[0]
    if writes:
        units["store"] = width
    elif MEMORY.search(sources):
        units["load"] = width / 2 if BROADCAST.match(mnemonic) or "{1to" in sources else width
    moved = hot_loops.MOVE.match(mnemonic) or BROADCAST.match(mnemonic) and "load" in units
    if moved:
        return units
    units["vector"] = width
    if MULTIPLY.match(mnemonic):
        units["multiply"] = width
    elif SHUFFLE.match(mnemonic):
        units["shuffle"] = width
    if section_counts.kind(mnemonic, operands) == "dots" and mnemonic.startswith("vpdp"):
        units["dots"] = width
    return units


def section(program, codec, rows):
    """{class: units} of one section."""
    counts = section_counts.steps(program, "avx512", codec, rows, 3)
    counts.subtract(section_counts.steps(program, "avx512", codec, rows, 1))
    at = {address: classify(mnemonic, operands)
          for _, body in hot_loops.functions(hot_loops.disassemble(program)) for address, mnemonic, operands in body}
    total = dict.fromkeys(("dots", "multiply", "shuffle", "vector", "load", "store", "instructions"), 0.0)
    for address, count in counts.items():
        for name, units in at.get(address, {"instructions": 1.0}).items():
            total[name] += units * count / 2
    return total


def bounds(total):
    """({what: cycles} on Zen 4, the same on Intel)."""
    multiply, shuffle, vector = total["multiply"], total["shuffle"], total["vector"]
    zen = {"multiply": multiply, "multiply, shuffle": (multiply + shuffle) / 1.5, "vector": vector / 2,
           "load": total["load"], "store": 2 * total["store"]}
    intel = {"vector": vector / 2, "load": total["load"] / 2, "store": total["store"],
             "instructions": total["instructions"] / 5}
    return zen, intel


def main(arguments):
    if len(arguments) < 3 or arguments[0] in ("--help", "-h"):
        print(__doc__)
        return 0 if arguments and arguments[0] in ("--help", "-h") else 2
    program, rows, codecs = arguments[0], arguments[1], arguments[2:]
    print("| codec, rows | dots | multiply | shuffle | vector | load | store | Zen 4: cycles, by, share | Intel: cycles, by, "
          "share | Zen 4, measured: ns |\n|" + " --- |" * 10)
    for codec in codecs:
        try:
            total = section(program, codec, rows)
            nanoseconds = section_counts.times(program, "avx512", codec, rows)[0]
        except subprocess.CalledProcessError as error:
            print(error.stderr.strip(), file=sys.stderr)
            return 2
        cells = [f"{total[name]:.0f}" for name in ("dots", "multiply", "shuffle", "vector", "load", "store")]
        for machine, peak in zip(bounds(total), (1, 2)):
            what = max(machine, key=machine.get)
            cells.append(f"{machine[what]:.0f}, {what}, {total['dots'] / peak / machine[what]:.2f}")
        print(f"| {codec} {rows} | " + " | ".join(cells) + f" | {nanoseconds:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
