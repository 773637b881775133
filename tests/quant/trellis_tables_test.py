#!/usr/bin/env python3
"""The level tables of trellis.h are what their derivation says: levels that a generalised Lloyd iteration leaves where they are,
with the errors that quant/README.md names. Samples are others than those the tables were made from."""

import sys
import unittest
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "quant"))
from design_trellis import UNIT, Trellis, gaussian, linear_levels, measure, refine, table_in_header  # noqa: E402

# Mean squared error of a unit Gaussian as published, and by how many level units one round may move a level: the sample's
# noise, which grows with the width of a level's cell, and half a unit of rounding.
PUBLISHED = {4: (0.0062, 1.2), 3: (0.0213, 1.2), 2: (0.0781, 2), 1: (0.281, 4)}


def largest_move(bits, table):
    x = gaussian(1024, 14)
    moved = refine(Trellis(bits), (table / UNIT).astype(np.float32), x, 1, 0, np.random.RandomState(0))
    return np.abs(moved * UNIT - table).max()


class TrellisTables(unittest.TestCase):
    def test_levels_are_the_means_of_what_their_paths_map_to_them(self):
        for bits, (_, most) in PUBLISHED.items():
            self.assertLess(largest_move(bits, table_in_header(bits)), most, f"tcq{bits}")

    def test_levels_follow_their_labels(self):
        for bits in PUBLISHED:
            self.assertGreater(np.corrcoef(table_in_header(bits), linear_levels(bits))[0, 1], 0.9, f"tcq{bits}")

    def test_errors_are_those_published(self):
        for bits, (error, _) in PUBLISHED.items():
            self.assertAlmostEqual(measure(bits, table_in_header(bits)) / error, 1, delta=0.01, msg=f"tcq{bits}")

    def test_a_moved_level_has_more_error(self):
        for bits in PUBLISHED:
            table = table_in_header(bits)
            kept = measure(bits, table)
            table[np.argsort(np.abs(table))[len(table) // 2]] += 12
            self.assertGreater(measure(bits, table) / kept, 1.001, f"tcq{bits}")

    def test_exchanged_levels_have_more_error(self):
        for bits, (error, _) in PUBLISHED.items():
            table = table_in_header(bits)
            table[[0, 1]] = table[[1, 0]]
            self.assertGreater(measure(bits, table) / error, 1.01, f"tcq{bits}")


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    print(f"[counts] cases={3 * len(PUBLISHED)} faults={2 * len(PUBLISHED)}")
    sys.exit(not result.wasSuccessful())
