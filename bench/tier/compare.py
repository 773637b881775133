#!/usr/bin/env python3
"""Runs fio and quire-tier in turns and compares them. bench/tier.sh calls it."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

DEPTHS = [4, 16]
SIZES = ["1M", "2M"]
MIB = 1 << 20


def fio(options, direction, size, depth):
    """MiB/s of one sequential pass."""
    file = Path(options.dir) / "quire-tier-fio.dat"
    command = ["fio", "--name=tier", f"--rw={direction}", f"--bs={size}", "--direct=1", "--ioengine=io_uring",
               "--fixedbufs", "--registerfiles", f"--iodepth={depth}", f"--size={options.bytes}", f"--filename={file}",
               "--output-format=json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"tier.sh: fio failed: {result.stderr.strip()}")
    return json.loads(result.stdout)["jobs"][0][direction]["bw_bytes"] / MIB


def quire(options, size, depth):
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [options.program, "--dir", options.dir, "--bytes", options.bytes, "--request", size,
                   "--depth", str(depth), "--json", out.name]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            sys.exit(f"tier.sh: {result.stderr.strip()}")
        return json.load(out)


def measure(options):
    """{(who, direction, size, depth): [MiB/s]} and the last answer of quire-tier."""
    figures, last = {}, {}
    cases = [(size, depth) for size in SIZES for depth in DEPTHS]
    for turn in range(options.rounds):
        for size, depth in cases if turn % 2 == 0 else reversed(cases):
            for who in ("fio", "quire") if turn % 2 == 0 else ("quire", "fio"):
                if who == "fio":
                    speeds = {d: fio(options, d, size, depth) for d in ("write", "read")}
                else:
                    last = quire(options, size, depth)
                    speeds = {"write": last["write_mib_s"], "read": last["read_mib_s"]}
                for direction, speed in speeds.items():
                    figures.setdefault((who, direction, size, depth), []).append(speed)
        print(f"round {turn + 1} of {options.rounds}", file=sys.stderr)
    (Path(options.dir) / "quire-tier-fio.dat").unlink(missing_ok=True)
    return figures, last


def main():
    parser = argparse.ArgumentParser()
    for name in ("program", "dir", "bytes", "json"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    options = parser.parse_args()
    figures, last = measure(options)
    rows = [{"who": who, "direction": direction, "request": size, "depth": depth, "mib_s": speeds,
             "median": statistics.median(speeds)} for (who, direction, size, depth), speeds in figures.items()]
    summary = {"write_amplification": last["write_amplification"], "engine": last["engine"], "direct": last["direct"]}
    print(f"{'':6} {'fio best':>18} {'quire best':>18} {'ratio of medians':>17} {'of single best':>15}")
    for direction in ("write", "read"):
        best = {}
        for who in ("fio", "quire"):
            best[who] = max((r for r in rows if r["who"] == who and r["direction"] == direction),
                            key=lambda r: r["median"])
        single = {who: max(max(r["mib_s"]) for r in rows if r["who"] == who and r["direction"] == direction)
                  for who in best}
        ratio = best["quire"]["median"] / best["fio"]["median"]
        summary[direction] = {"fio": best["fio"], "quire": best["quire"], "ratio": ratio,
                              "ratio_of_single_best": single["quire"] / single["fio"]}
        texts = [f"{b['median']:.0f} ({b['request']} x {b['depth']})" for b in (best["fio"], best["quire"])]
        print(f"{direction:6} {texts[0]:>18} {texts[1]:>18} {ratio:17.3f} {single['quire'] / single['fio']:15.3f}")
    print(f"bytes written per byte of pages: {last['write_amplification']:.4f}")
    Path(options.json).write_text(json.dumps({"options": {"bytes": options.bytes, "rounds": options.rounds},
                                              "summary": summary, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
