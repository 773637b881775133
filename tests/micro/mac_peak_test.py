#!/usr/bin/env python3
"""The bursts that measure peaks must do what they count: one multiply for every sum in each turn, in registers.

usage: mac_peak_test.py FOLDER_OF_BENCH_MICRO OBJECT...
"""

import re
import sys

sys.path.insert(0, sys.argv[1])
import hot_loops

SUMS = 12
MULTIPLIES = {"burst_vpdpbusd": "vpdpbusd", "burst_vpdpbusd_256": "vpdpbusd", "burst_vpmaddwd": "vpmaddwd", "burst_fma_512": "vfmadd231ps",
              "burst_fma_256": "vfmadd231ps", "burst_mulss": "mulss"}


def main():
    path = next(path for path in sys.argv[2:] if path.endswith("mac_peak.cc.o"))
    found = {}
    for name, body in hot_loops.functions(hot_loops.disassemble(path)):
        burst = re.search(r"burst_\w+", name)
        if burst:
            found[burst.group()] = list(hot_loops.innermost_loops(body))
    faults = []
    for burst, multiply in MULTIPLIES.items():
        loops = found.get(burst, [])
        counts = [sum(mnemonic == multiply for _, mnemonic, _ in loop) for loop in loops]
        memory = [operands for loop in loops for _, _, operands in loop if "(%" in operands]
        if counts != [SUMS] or memory:
            faults.append(f"{burst}: {counts} times {multiply}, expected [{SUMS}]; touches memory: {memory}")
    print("\n".join(faults))
    print(f"[counts] cases={len(MULTIPLIES)}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
