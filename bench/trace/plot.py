#!/usr/bin/env python3
"""Draws what quire-trace --json wrote: hit rate of every eviction policy against the size of memory.

usage: plot.py REPLAY.json... --out PICTURE.svg
"""

import argparse
import json
import sys
from pathlib import Path

COLOURS = {"newest": "#777777", "lru": "#E69F00", "s3fifo": "#009E73", "mass": "#D55E00", "frequency": "#0072B2",
           "optimum": "#000000"}
REQUIRED = ("policy", "memory_share", "hit_rate")


class InputError(Exception):
    """One sentence for the user."""


def load(path):
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give files of quire-trace --json") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); write it again with quire-trace --json") from error
    rows = data.get("rows") if isinstance(data, dict) else None
    if not rows or any(key not in row for row in rows for key in REQUIRED):
        raise InputError(f"{path} holds no replay; write it again with quire-trace --json")
    return data


def lines(rows):
    """{policy: [(share of memory, hit rate)]}, by rising share."""
    found = {}
    for row in sorted(rows, key=lambda row: row["memory_share"]):
        found.setdefault(row["policy"], []).append((row["memory_share"], row["hit_rate"]))
    return found


def title_of(data):
    options = data.get("options", {})
    return f"{options.get('select', '?')}, {options.get('sequences', '?')} x {options.get('context', '?')} tokens"


def draw(replays, out):
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as pyplot
    figure, axes = pyplot.subplots(1, len(replays), figsize=(5 * len(replays), 4), squeeze=False, sharey=True)
    for plot, data in zip(axes[0], replays):
        for policy, points in lines(data["rows"]).items():
            plot.plot(*zip(*points), marker="o", label=policy, color=COLOURS.get(policy, "#AA7FB5"),
                      linestyle="--" if policy == "optimum" else "-")
        plot.set_title(title_of(data))
        plot.set_xlabel("memory, share of all pages")
        plot.set_ylim(0, 1)
        plot.grid(alpha=0.3)
        plot.legend()
    axes[0][0].set_ylabel("pages attended in memory")
    figure.tight_layout()
    figure.savefig(out, format="svg")


def main(arguments):
    parser = argparse.ArgumentParser(prog="plot.py", description=__doc__.splitlines()[0],
                                     epilog="example: plot.py replay.json --out replay.svg")
    parser.add_argument("replays", nargs="+", metavar="REPLAY.json")
    parser.add_argument("--out", required=True, metavar="PICTURE.svg")
    options = parser.parse_args(arguments)
    try:
        draw([load(path) for path in options.replays], options.out)
    except InputError as error:
        print(f"plot.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"plot.py: {options.out}: {error.strerror}; name a file that can be written", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
