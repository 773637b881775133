#!/usr/bin/env python3
"""Counts the instructions of the loops that multiply, in the disassembly of object files.

usage: hot_loops.py OBJECT...

A hot loop is a backward jump's body without a further one inside that holds dot instructions: integer ones, or
fused multiply-adds in functions without integer ones. Functions for uncommon shapes are left out. Prints JSON:
{"avx512 score_quads<4, 2>": [{"dots": 16, "loads": 12, "moves": 4, "total": 40}, ...], ...}, loops in the order of
their addresses. `loads` are instructions with a memory operand that is read, `moves` vector copies and spills.
"""

import json
import re
import subprocess
import sys

ISAS = {"N_AVX3": "avx512", "N_AVX_VNNI": "avxvnni", "N_AVX2": "avx2"}
FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
INSTRUCTION = re.compile(r"^ *([0-9a-f]+):\t(\S+)(?: +(.*))?$")
JUMP_TARGET = re.compile(r"^([0-9a-f]+) <")
INTEGER_DOT = re.compile(r"^vp(dpbusds?|dpwssds?|maddwd)$")
FLOAT_DOT = re.compile(r"^vfn?m(add|sub)\d+ps$")
PREFIXES = ("{vex}", "data16", "cs", "notrack", "bnd", "lock", "rep", "repz")
MOVE = re.compile(r"^v?mov(dq[au]\w*|[au]p[sd])$")
NO_LOAD = re.compile(r"^(lea|nop|prefetch)")


def functions(text):
    """(name, [(address, mnemonic, operands)]) of every function of a disassembly."""
    name, body = None, []
    for line in text.splitlines():
        header = FUNCTION.match(line)
        if header:
            if name:
                yield name, body
            name, body = header.group(1), []
            continue
        instruction = INSTRUCTION.match(line)
        if instruction:
            mnemonic, operands = instruction.group(2), instruction.group(3) or ""
            while mnemonic in PREFIXES and operands:
                mnemonic, _, operands = operands.partition(" ")
            body.append((int(instruction.group(1), 16), mnemonic, operands.strip()))
    if name:
        yield name, body


def short_name(name):
    """"isa function<arguments>" of a function of the kernels that is worth pinning, or None."""
    isa = next((isa for space, isa in ISAS.items() if f"quire::{space}::" in name), None)
    if isa is None or "AnyShape" in name:
        return None
    clone = re.search(r" \[clone (\.[a-z]+)", name)
    name = re.sub(r"quire::N_AVX\w+::|quire::", "", name)
    name = re.sub(r"^(void|bool) ", "", name.replace("{lambda", "lambda"))
    name = re.sub(r"(\d)u\b", r"\1", re.sub(r"\(.*$", "", name))
    return f"{isa} {name}{clone.group(1) if clone else ''}".replace(", CommonShape", "")


def innermost_loops(body):
    """Bodies of backward jumps inside a function that hold no other."""
    places = {address: i for i, (address, _, _) in enumerate(body)}
    spans = []
    for i, (address, mnemonic, operands) in enumerate(body):
        target = JUMP_TARGET.match(operands)
        if mnemonic.startswith("j") and target and int(target.group(1), 16) <= address:
            first = places.get(int(target.group(1), 16))
            if first is not None:
                spans.append((first, i))
    for first, last in spans:
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in spans):
            yield body[first:last + 1]


def reads_memory(mnemonic, operands):
    if "(%" not in operands or NO_LOAD.match(mnemonic):
        return False
    destination = operands.rsplit(",", 1)[-1] if operands.rfind(")") < operands.rfind(",") else operands
    stores = operands.endswith(")") or operands.endswith("}") and ")" in destination
    return not (stores and ("mov" in mnemonic or mnemonic.startswith("vextract")))


def moves(mnemonic, operands):
    """A vector copied to a register or spilled: work that the compiler added."""
    if not MOVE.match(mnemonic):
        return False
    source, _, destination = operands.partition(",")
    return "(" not in source and ("(" not in destination or "%rsp" in destination or "%rbp" in destination)


def counts(loop, dot):
    return {
        "dots": sum(bool(dot.match(mnemonic)) for _, mnemonic, _ in loop),
        "loads": sum(reads_memory(mnemonic, operands) for _, mnemonic, operands in loop),
        "moves": sum(moves(mnemonic, operands) for _, mnemonic, operands in loop),
        "total": len(loop),
    }


def hot_loops_of(text):
    """{short name: [counts]} of a disassembly."""
    found = {}
    for name, body in functions(text):
        short = short_name(name)
        if short is None:
            continue
        integer = any(INTEGER_DOT.match(mnemonic) for _, mnemonic, _ in body)
        dot = INTEGER_DOT if integer else FLOAT_DOT
        loops = [counts(loop, dot) for loop in innermost_loops(body)]
        loops = [loop for loop in loops if loop["dots"] > 0]
        if loops:
            found.setdefault(short, []).extend(loops)
    return found


def disassemble(path):
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def hot_loops(paths):
    """{short name: [counts]} of object files, by name."""
    found = {}
    for path in paths:
        found.update(hot_loops_of(disassemble(path)))
    return dict(sorted(found.items()))


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] in ("--help", "-h"):
        print(__doc__)
        sys.exit(0 if len(sys.argv) > 1 else 2)
    print(json.dumps(hot_loops(sys.argv[1:]), indent=1))
