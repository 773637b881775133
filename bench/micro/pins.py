#!/usr/bin/env python3
"""Holds figures that do not depend on a machine's speed against bench/micro/pinned.json, or writes that file.

Pinned are the bytes of a page for every pair of codecs (exact), errors of attention and encoding, and instruction
counts of the loops that multiply. The file states its margins: a figure may be worse by that much. The counts are
those of one compiler; another one's are not compared.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from hot_loops import hot_loops

MARGINS = {
    "page_bytes": {"relative": 0, "absolute": 0},
    "error": {"relative": 0.10, "absolute": 1e-9},
    "hot_loops": {"relative": 0.05, "absolute": 2},
}
SKIPPED = 77  # what ctest takes for "did not run"
REMEDY = "if that is meant, run bench/micro/update.sh"


def measure(options, sections=tuple(MARGINS)):
    """What these sections need, as it is now, in the form of the file."""
    major = options.compiler_version.split(".")[0]
    now = {"compiler": f"{options.compiler_id} {major}", "build_type": options.build_type, "margins": MARGINS}
    if "page_bytes" in sections or "error" in sections:
        facts = json.loads(subprocess.run([options.facts], check=True, capture_output=True, text=True).stdout)
        now |= {"page_bytes": facts["page_bytes"], "error": facts["error"]}
    if "hot_loops" in sections:
        now["hot_loops"] = hot_loops(path for path in options.objects if "/cpu/" in path)
    return now


def flat(figures):
    """{"section name [key]": number} of one section; counts of loops become figures of their own."""
    out = {}
    for name, value in figures.items():
        if not isinstance(value, list):
            out[name] = value
            continue
        for i, loop in enumerate(value):
            out.update({f"{name} loop {i} {what}": count for what, count in loop.items()})
    return out


def compare(pinned, now, section):
    """(faults, notes) of a section: sentences."""
    margin, old, new = pinned["margins"][section], flat(pinned[section]), flat(now[section])
    faults, notes = [], []
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            where = "not pinned" if name not in old else "pinned, but is no more"
            faults.append(f"{section}: {name} is {where}; {REMEDY}")
            continue
        room = max(abs(old[name]) * margin["relative"], margin["absolute"])
        sentence = f"{section}: {name} is {new[name]:.6g}, pinned {old[name]:.6g}, margin {room:.2g}"
        # Dots are the work itself: fewer would be as strange as more.
        exact = margin["relative"] == 0 or name.endswith(" dots")
        if new[name] > old[name] + room or (exact and new[name] != old[name]):
            faults.append(f"{sentence}; {REMEDY}")
        elif new[name] < old[name] - room:
            notes.append(f"{sentence}: better")
    return faults, notes


def isa_of(name):
    return next((isa for isa in ("avx512", "avxvnni", "avx2") if name.startswith(isa + " ")), None)


def missing_isas(pinned, now):
    """Instruction sets that are pinned and that this machine cannot run."""
    def isas(figures):
        return {isa_of(name) for name in figures["error"]} - {None}
    return sorted(isas(pinned) - isas(now))


def check(options, sections):
    pinned = json.loads(Path(options.pinned).read_text(encoding="utf-8"))
    now = measure(options, sections)
    for key, what in (("compiler", "the compiler"), ("build_type", "the kind of build")):
        if "hot_loops" in sections and pinned[key] != now[key]:
            print(f"pinned.{options.section}: Skipped\n{what} is {now[key]}, instructions are pinned for {pinned[key]}")
            return SKIPPED
    for isa in missing_isas(pinned, now) if "error" in sections else []:
        print(f"not compared: errors of {isa}, which this machine does not run")
        pinned["error"] = {name: value for name, value in pinned["error"].items() if isa_of(name) != isa}
    found = [compare(pinned, now, section) for section in sections]
    for note in (note for _, notes in found for note in notes):
        print(note)
    faults = [fault for faults, _ in found for fault in faults]
    for fault in faults:
        print(fault)
    print(f"[counts] cases={sum(len(flat(pinned[section])) for section in sections)}")
    return 1 if faults else 0


def text_of(figures):
    """JSON with one figure, or the loops of one function, on a line: made for diffs."""
    lines = []
    for key, value in figures.items():
        if not isinstance(value, dict):
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
            continue
        inside = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items()]
        lines.append(f" {json.dumps(key)}: {{\n" + ",\n".join(inside) + "\n }")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def with_missing(pinned, now):
    """What is measured now, and of instruction sets that this machine cannot run the errors as they were."""
    kept = {}
    for isa in missing_isas(pinned, now):
        print(f"errors of {isa} stay as they were: this machine does not run it")
        kept |= {name: value for name, value in pinned["error"].items() if isa_of(name) == isa}
    return now | {"error": dict(sorted((now["error"] | kept).items()))}


def update(options):
    now = measure(options)
    path = Path(options.pinned)
    if path.exists():
        pinned = json.loads(path.read_text(encoding="utf-8"))
        now["margins"] = pinned["margins"]
        now = with_missing(pinned, now)
    path.write_text(text_of(now), encoding="utf-8")
    return 0


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "update"))
    parser.add_argument("--section", choices=tuple(MARGINS), help="of check; all of them when left out")
    parser.add_argument("--pinned", required=True, help="the file")
    parser.add_argument("--facts", required=True, help="quire-micro-facts")
    parser.add_argument("--compiler-id", required=True)
    parser.add_argument("--compiler-version", required=True)
    parser.add_argument("--build-type", required=True)
    parser.add_argument("objects", nargs="+", help="object files of the kernels")
    options = parser.parse_args(arguments)
    if options.what == "update":
        return update(options)
    return check(options, [options.section] if options.section else list(MARGINS))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
