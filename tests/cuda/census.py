#!/usr/bin/env python3
"""Compiles the kernels to PTX and on to machine code, and checks what no emulator can see.

usage: census.py NVCC ROOT [--arch 80,90,100,120] [--quick] [--cuobjdump PROGRAM] [UNIT...]

UNITs are files of quant/cuda and bench/qwen3/cuda without .cu; without any, all of them: eight minutes of one core; with
--quick, one of those that are alike but for codecs or shapes: three. Of each and for every architecture: no `trap` (nvcc
makes one of what it takes for undefined, as the address of a host's constant is in device code), no spills, no local memory,
and the instructions that the kernel is built on, in PTX and, with --cuobjdump (tests/cuda/cuobjdump.sh has one), what became of
them in machine code. Prints a line for each unit and exits with 1 when one is not as it should be.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Instructions that a unit must have, by the beginning of its name.
WANTED = {
    "staged_": ["mma.sync.aligned.m16n8k32", "cp.async.cg.shared.global", "ld.shared.v4", "prmt.b32"],
    "attend_dim": ["mma.sync.aligned.m16n8k32", "mma.sync.aligned.m16n8k16", "ld.global.v4"],
    "attend_unfolded": ["mma.sync.aligned.m16n8k16", "ld.shared.v4"],
    "encode_rotated": ["ld.global.v4", "redux.sync", "ld.shared.v4"],
    "attend_prefill": ["mma.sync.aligned.m16n8k32", "cp.async.cg.shared.global", "ld.shared.v4"],
    "attend_warpgroups": ["wgmma.mma_async.sync.aligned.m64n64k32", "cp.async.bulk.shared", "mbarrier.try_wait", "setmaxnreg.inc"],
    "unpack_pairs": ["cp.async.cg.shared.global", "st.global.v4", "prmt.b32"],
    "prefill_unpack": ["cp.async.cg.shared.global", "ld.shared.v4", "st.global.v4", "prmt.b32"],
    "encode_tcq": ["ld.global.v4", "redux.sync", "ld.shared.v4"],
    "encode_trellis": [],
    "encode_uniform": ["ld.global.v4", "redux.sync", "ld.shared.v4"],
    "encode_nonuniform": [],
    "encode_nuq_keys": ["ld.global.f32", "fma.rp.sat.f32", "dp4a.s32.s32", "redux.sync"],
    "encode_nuq_values": ["ld.global.v4", "fma.rp.sat.f32", "dp4a.s32.s32", "redux.sync"],
    "encode": ["ld.global.v4"],
    "sample": ["atom.shared.add.u64", "shfl.sync"],
    "copy": ["ld.global.v4", "st.global.v4"],
}
# What instructions of PTX are in machine code, by the beginning of the name; what is not here is counted as PTX alone.
MACHINE = {
    "atom.shared.add.u64": "ATOMS",
    "cp.async.bulk.shared": "UBLKCP",
    "cp.async.cg.shared.global": "LDGSTS",
    "dp4a.s32.s32": "IDP",
    "ld.global.v4": "LDG.E.128",
    "ld.shared.v4": "LDS.128",
    "mbarrier.try_wait": "SYNCS",
    "mma.sync.aligned.m16n8k16": "HMMA",
    "mma.sync.aligned.m16n8k32": "IMMA",
    "prmt.b32": "PRMT",
    "redux.sync": "REDUX",
    "setmaxnreg.inc": "USETMAXREG",
    "shfl.sync": "SHFL",
    "st.global.v4": "STG.E.128",
    "wgmma.mma_async.sync.aligned.m64n64k32": "IGMMA",
}
SKIPPED = 77  # what ctest takes for "did not run"
LOCAL = ("LDL", "STL")  # accesses to local memory
MACHINE_LINE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
# Kernels that are alike, and the one of them that stands for all with --quick: bench/gpu.sh builds the others with the same
# warnings as errors, tests/nightly.sh looks at all.
ALIKE = {"staged_": "staged_rot4", "attend_dim": "attend_dim64", "attend_unfolded": None}
# Units for one architecture alone.
ARCHS = {"attend_warpgroups": ["90a"]}
# As quant/cuda/CMakeLists.txt compiles them.
EXACT = {"decode", "digests", "encode", "encode_nonuniform", "encode_nuq_keys", "encode_nuq_values", "encode_rotated", "encode_tcq", "encode_trellis", "encode_uniform", "merge", "select"}


def sources(root):
    """The path of each unit, by its name."""
    return {path.stem: path for folder in ("quant/cuda", "bench/qwen3/cuda") for path in sorted((root / folder).glob("*.cu"))}


def wanted(unit):
    return next((found for name, found in WANTED.items() if unit.startswith(name)), [])


def is_quick(unit):
    return all(not unit.startswith(kind) or unit == one for kind, one in ALIKE.items())


def listed(what, counts):
    return ", ".join([what, *(f"{count} {name}" for name, count in counts.items())])


def machine_census(cuobjdump, cubin, names):
    """A clause on what is in the machine code, and what is wrong with it."""
    dump = subprocess.run([cuobjdump, "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
    dump = re.sub(r"\b(LD|ST)\.E\b", r"\1G.E", dump)  # as above: to any memory, and to global
    code = MACHINE_LINE.findall(dump.replace("CREDUX", "REDUX"))  # what sm_100 calls it
    counts = {name: sum((at + ".").startswith(name + ".") for at in code) for name in names}
    faults = [f"has no {name} in machine code" for name, count in counts.items() if count == 0]
    faults += [f"has {name} in machine code" for name in LOCAL if any((at + ".").startswith(name + ".") for at in code)]
    return listed(f"; {len(code)} instructions", counts), faults


def census(nvcc, cuobjdump, root, source, arch):
    """A line on what is in the PTX and the machine code, and the faults of one unit on one architecture."""
    unit = source.stem
    flags = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", f"-arch=compute_{arch}", "-I", str(root)]
    if unit in EXACT:
        flags.append("--fmad=false")
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder) / "unit.ptx"
        subprocess.run([nvcc, *flags, "-ptx", str(source), "-o", str(ptx)], check=True)
        cubin = Path(folder) / "unit.cubin"
        ptxas = [str(Path(nvcc).with_name("ptxas")), f"-arch=sm_{arch}", "-warn-spills", "-warn-lmem-usage", "-Werror"]
        result = subprocess.run([*ptxas, str(ptx), "-o", str(cubin)], capture_output=True, text=True, check=False)
        text = ptx.read_text(encoding="utf-8")
        machine, wrong = "", []
        if cuobjdump and result.returncode == 0:
            machine, wrong = machine_census(cuobjdump, cubin, [MACHINE[name] for name in wanted(unit) if name in MACHINE])
    generic = re.sub(r"\b(ld|st)\.v4", r"\1.global.v4", text)  # as an access that may be to any memory, and is to global
    found = [f"{unit} on sm_{arch}: has a trap"] if re.search(r"^\s*trap;", text, re.MULTILINE) else []
    found += [f"{unit} on sm_{arch}: has no {name}" for name in wanted(unit) if name not in generic]
    found += [f"{unit} on sm_{arch}: {what}" for what in wrong]
    if result.returncode != 0:
        found.append(f"{unit} on sm_{arch}: {result.stderr.strip()[:400]}")
    counts = {name: generic.count(name) for name in wanted(unit)}
    return listed(f"{unit} on sm_{arch}: {text.count('.entry')} kernels", counts) + machine, found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("nvcc")
    parser.add_argument("root", type=Path)
    parser.add_argument("units", nargs="*")
    parser.add_argument("--arch", default="80,90,100,120")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cuobjdump")
    arguments = parser.parse_intermixed_args()
    if shutil.which(arguments.nvcc) is None:
        print("cuda.census: Skipped\nthere is no nvcc")
        return SKIPPED
    root = arguments.root.resolve()
    known = sources(root)
    unknown = [unit for unit in arguments.units if unit not in known]
    if unknown:
        parser.error(f"no such unit: {', '.join(unknown)}")
    archs = arguments.arch.split(",")
    units = arguments.units or [unit for unit in known if not arguments.quick or is_quick(unit)]
    cases = [(known[unit], arch) for unit in units for arch in ARCHS.get(unit, archs)]
    faults = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for line, found in pool.map(lambda case: census(arguments.nvcc, arguments.cuobjdump, root, *case), cases):
            print("\n".join([line, *found]), flush=True)
            faults += len(found)
    print(f"[counts] cases={len(cases)} faults={faults}")
    return 1 if faults or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
