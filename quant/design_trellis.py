#!/usr/bin/env python3
"""Designs the level tables of the tcq codecs, and says whether a design is better than the table in force.

    python3 quant/design_trellis.py 3            # the table of tcq3, a minute or two
    python3 quant/design_trellis.py 3 --check    # only measures the table in trellis.h

The table of quant/trellis.h and quant/FORMATS.md competes: it is printed unless the design has less error, because every
page that was ever written depends on it. Where the two differ both errors are printed.

What can be derived again, and what cannot: tables come from LABELS, and all four still follow them (correlations of .93 to
.99). The tables of tcq2 and tcq3 are what `design` ends with. Those of tcq4 and tcq1 went through more rounds with more noise,
whose random streams were not kept: `design` ends at .00653 for tcq4 where the table has .00624, so the table itself is the
record. It is a fixed point: a round of the iteration moves no level of tcq4 by more than one fortieth, and refining it further
(--again) wins .3 %. tests/quant/trellis_tables_test.py checks that, the labels and the errors.

Levels are set for a unit Gaussian. They start from labels that are linear over GF(2), as those of Ungerboeck's codes
are: each bit of a label is the parity of some bits of the index, and a label is the quantile that the level starts
as. LABELS are the best of one or two hundred random ones, each after eight rounds of what follows: a generalised
Lloyd iteration (each level becomes the mean of what the cheapest paths map to it), with a little noise that dies
away, the best of twelve. Randomness comes from numpy's RandomState, whose streams are frozen. Levels are then written in
fortieths of the standard deviation and measured with the integer costs of FORMATS.md. Errors are those in the middle of
chains, as if they were rings.
"""

import argparse
import re
from pathlib import Path
from statistics import NormalDist

import numpy as np

WINDOW = 6  # bits of a level's index
UNIT = 40  # level units in a standard deviation
CHAIN = 80
TRIES = 12
EDGE = 8  # elements at either end of a chain that do not count
# History bits, window bits and rest bits of a code of 1 to 4 bits.
SHAPES = {1: (1, 6, 0), 2: (2, 6, 0), 3: (1, 4, 2), 4: (4, 6, 0)}
# Bits of the index whose parity is a bit of the label.
LABELS = {1: (36, 26, 41), 2: (24, 23, 12, 33, 59), 3: (59, 50, 4, 15, 15, 45), 4: (63, 38, 4, 43, 56)}


class Trellis:
    """The ways into each state: levels[index] is met on the way from state before[index]."""

    def __init__(self, bits: int):
        self.history, self.window, self.rest = SHAPES[bits]
        self.states = 1 << self.window - self.history
        number = np.arange(1 << bits)
        windows = (np.arange(self.states)[:, None] << self.history) | (number & (1 << self.history) - 1)
        self.index = windows | (number >> self.history << self.window)  # [state][way]
        self.before = windows & self.states - 1

    def paths(self, x: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """The index of every element of x [element][chain] on the cheapest path of its chain."""
        chains = x.shape[1]
        level = levels[self.index].astype(x.dtype)
        cost = np.zeros((self.states, chains), x.dtype)
        chosen = np.empty((len(x), self.states, chains), np.uint8)
        for place, y in enumerate(x):
            ways = cost[self.before] + (level * level)[:, :, None] - (2 * level)[:, :, None] * y
            chosen[place] = ways.argmin(1)
            cost = np.take_along_axis(ways, chosen[place][:, None].astype(np.intp), 1)[:, 0]
        state = cost.argmin(0)
        out = np.empty(x.shape, np.intp)
        for place in range(len(x) - 1, -1, -1):
            way = chosen[place, state, np.arange(chains)]
            out[place] = self.index[state, way]
            state = self.before[state, way]
        return out


def gaussian(chains: int, seed: int) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal((CHAIN, chains)).astype(np.float32)


def middle(x: np.ndarray) -> np.ndarray:
    return x[EDGE:-EDGE]


def error(trellis: Trellis, levels: np.ndarray, x: np.ndarray) -> float:
    return float(np.mean(middle(levels[trellis.paths(x, levels)] - x) ** 2))


def linear_levels(bits: int) -> np.ndarray:
    """Gaussian quantiles by label."""
    rows = LABELS[bits]
    label = [sum((bin(i & row).count("1") & 1) << k for k, row in enumerate(rows)) for i in range(1 << WINDOW)]
    return np.array([NormalDist().inv_cdf((n + 0.5) / (1 << len(rows))) for n in label], np.float32)


def refine(trellis: Trellis, levels: np.ndarray, x: np.ndarray, rounds: int, noise: float,
           random: np.random.RandomState) -> np.ndarray:
    """Generalised Lloyd. Noise falls to nothing a few rounds before the end."""
    for i in range(rounds):
        index = middle(trellis.paths(x, levels)).ravel()
        count = np.bincount(index, minlength=len(levels))
        mean = np.bincount(index, middle(x).ravel(), len(levels)) / np.maximum(count, 1)
        levels = np.where(count > 0, mean, random.standard_normal(len(levels)))
        if i + 4 < rounds:
            levels += noise * (1 - (i + 1) / rounds) * random.standard_normal(len(levels))
        levels = levels.astype(np.float32)
    return levels


def design(bits: int) -> np.ndarray:
    trellis, small = Trellis(bits), gaussian(512, 12)
    tried = []
    for seed in range(TRIES):
        random = np.random.RandomState(seed)
        levels = (linear_levels(bits) + 0.02 * random.standard_normal(1 << WINDOW)).astype(np.float32)
        tried.append(refine(trellis, levels, small, 24, 0.05, random))
    best = min(tried, key=lambda levels: error(trellis, levels, small))
    return np.rint(refine(trellis, best, gaussian(4096, 13), 8, 0, np.random.RandomState(0)) * UNIT).astype(int)


def table_in_header(bits: int) -> np.ndarray:
    text = (Path(__file__).parent / "trellis.h").read_text()
    numbers = re.search(rf"kTcq{bits}Levels\{{([^}}]*)\}}", text).group(1)
    return np.array([int(n) for n in numbers.split(",")])


def measure(bits: int, levels: np.ndarray) -> float:
    """Mean squared error of a unit Gaussian, with targets and levels in integers as the codec has them."""
    x = gaussian(4096, 99)
    targets = np.clip(np.rint(x * UNIT), -127, 127).astype(np.int32)
    found = levels[Trellis(bits).paths(targets, levels)] / UNIT
    return float(np.mean(middle(found - x) ** 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bits", type=int, choices=(1, 2, 3, 4))
    parser.add_argument("--check", action="store_true", help="measure the table of trellis.h instead of making one")
    parser.add_argument("--again", action="store_true", help="refine the table of trellis.h further")
    options = parser.parse_args()
    in_force = table_in_header(options.bits)
    levels = in_force
    if options.again:
        start, still = (in_force / UNIT).astype(np.float32), np.random.RandomState(0)
        levels = np.rint(refine(Trellis(options.bits), start, gaussian(4096, 14), 4, 0, still) * UNIT).astype(int)
    elif not options.check:
        levels = design(options.bits)
    found, kept = measure(options.bits, levels), measure(options.bits, in_force)
    if not (levels == in_force).all():
        print(f"designed: {found:.5f}; in trellis.h: {kept:.5f}" + ("" if found < kept else ", which stays"))
    if found >= kept:
        levels, found = in_force, kept
    for row in levels.reshape(4, 16):
        print(", ".join(str(level) for level in row) + ",")
    print(f"mean squared error of a unit Gaussian: {found:.5f}")


if __name__ == "__main__":
    main()
