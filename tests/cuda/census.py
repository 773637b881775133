#!/usr/bin/env python3
"""Compiles the kernels to PTX and on to machine code, and checks what no emulator can see.

usage: census.py NVCC ROOT [--arch 80,90,100,120] [UNIT...]

UNITs are files of quant/cuda and bench/qwen3/cuda without .cu; without any, a few that compile in seconds. Of each: no `trap` (nvcc makes one
of what it takes for undefined, as the address of a host's constant is in device code), no spills, no local memory on any
architecture, and the instructions that the kernel is built on. PTX is made once, for the first architecture, but for units
that fill the registers (staged_*): made for another, theirs can spill. Prints a line per unit and exits with 1 when one is
not as it should be.
"""

import argparse
import re
import subprocess
import sys
import tempfile
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
    "encode_trellis": [],
    "encode_uniform": ["ld.global.v4", "redux.sync", "ld.shared.v4"],
    "encode_nonuniform": [],
    "encode_nuq_keys": ["ld.global.f32", "fma.rp.sat.f32", "dp4a.s32.s32", "redux.sync"],
    "encode_nuq_values": ["ld.global.v4", "fma.rp.sat.f32", "dp4a.s32.s32", "redux.sync"],
    "encode": ["ld.global.v4"],
    "sample": ["atom.shared.add.u64", "shfl.sync"],
    "copy": ["ld.global.v4", "st.global.v4"],
}
QUICK = ["copy", "decode", "digests", "encode", "encode_nonuniform", "encode_nuq_keys", "encode_nuq_values", "encode_rotated", "encode_trellis", "encode_uniform", "merge", "prefill_unpack", "rows", "sample", "select", "attend_warpgroups", "unpack_pairs"]
# Units for one architecture alone.
ARCHS = {"attend_warpgroups": ["90a"]}
EXACT = {"decode", "digests", "encode", "encode_nonuniform", "encode_nuq_keys", "encode_nuq_values", "encode_rotated", "encode_trellis", "encode_uniform", "merge", "select"}


def source_of(root, unit):
    folders = [root / "quant/cuda", root / "bench/qwen3/cuda"]
    return next(path for path in (folder / f"{unit}.cu" for folder in folders) if path.exists())


def wanted(unit):
    return next((found for name, found in WANTED.items() if unit.startswith(name)), [])


def make_ptx(nvcc, root, unit, arch, folder):
    ptx = folder / f"{unit}.{arch}.ptx"
    flags = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", f"-arch=compute_{arch}", "-I", str(root)]
    if unit in EXACT:
        flags.append("--fmad=false")
    subprocess.run([nvcc, *flags, "-ptx", str(source_of(root, unit)), "-o", str(ptx)], check=True)
    return ptx


def faults(nvcc, root, unit, archs, folder):
    archs = ARCHS.get(unit, archs)
    ptx = make_ptx(nvcc, root, unit, archs[0], folder)
    text = ptx.read_text(encoding="utf-8")
    generic = re.sub(r"\b(ld|st)\.v4", r"\1.global.v4", text)  # as an access that may be to any memory, and is to global
    kernels = text.count(".entry")
    print(f"{unit}: {kernels} kernels, " + ", ".join(f"{generic.count(name)} {name}" for name in wanted(unit)), flush=True)
    if re.search(r"^\s*trap;", text, re.MULTILINE):
        yield f"{unit}: has a trap"
    for name in wanted(unit):
        if name not in generic:
            yield f"{unit}: has no {name}"
    for arch in archs:
        if unit.startswith("staged_") and arch != archs[0]:
            ptx = make_ptx(nvcc, root, unit, arch, folder)
        command = [str(Path(nvcc).with_name("ptxas")), f"-arch=sm_{arch}", "-warn-spills", "-warn-lmem-usage", "-Werror"]
        result = subprocess.run([*command, str(ptx), "-o", str(folder / "unit.cubin")], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            yield f"{unit} on sm_{arch}: {result.stderr.strip()[:400]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("nvcc")
    parser.add_argument("root", type=Path)
    parser.add_argument("units", nargs="*", default=QUICK)
    parser.add_argument("--arch", default="80,90,100,120")
    arguments = parser.parse_args()
    archs = arguments.arch.split(",")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for unit in arguments.units or QUICK:
            found += faults(arguments.nvcc, arguments.root.resolve(), unit, archs, Path(folder))
    for fault in found:
        print(fault)
    cases = sum(len(ARCHS.get(unit, archs)) for unit in arguments.units or QUICK)
    print(f"[counts] cases={cases} faults={len(found)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
