#!/usr/bin/env python3
"""bench/frontier.py: rows are merged whole, goals are judged as they are stated, the page needs nothing else.

usage: frontier_test.py FRONTIER_PY
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

FRONTIER = sys.argv.pop(1)
KEYS = """model text context codec k_codec v_codec peer effective_bits page_bits ppl ppl_ref kld_mean kld_p999
same_top1 page_tokens""".split()


def row(codec, bits, kld, model="SmolLM2-135M-Instruct", context=2048, ppl=10.0, **changes):
    made = {"model": model, "text": "t", "context": context, "codec": codec, "k_codec": codec.split("/")[0],
            "v_codec": codec.split("/")[-1], "peer": None, "effective_bits": bits + 0.3, "page_bits": bits, "ppl": ppl,
            "ppl_ref": 10.0, "kld_mean": kld, "kld_p999": 20 * kld, "same_top1": 0.9}
    return made | changes


class Frontier(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_frontier(self, *parts, code=0):
        paths = []
        for number, part in enumerate(parts):
            paths.append(self.folder / f"part{number}.json")
            paths[-1].write_text(part if isinstance(part, str) else json.dumps(part))
        command = [sys.executable, "-B", FRONTIER, "--out", self.folder / "out", *paths]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stderr if code else done.stdout

    def rows(self):
        return json.loads((self.folder / "out/frontier.json").read_text())

    def page(self):
        return (self.folder / "out/frontier.html").read_text()

    def test_parts_and_peers_are_merged(self):
        ours = {"options": {}, "rows": [row("rot4/rot4", 4.28, 0.004) | {"isa": "avx2"}]}
        peers = [row("q4_0/q4_0", 4.5, 0.05, peer="llama.cpp")]
        output = self.run_frontier(ours, peers)
        self.assertEqual([list(entry) for entry in self.rows()], [KEYS, KEYS])
        self.assertEqual(self.rows()[1], peers[0] | {"page_tokens": None})
        self.assertIn("llama.cpp: q4_0/q4_0", output)
        page = self.page()
        self.assertEqual(page.count("<svg"), 3)
        self.assertNotIn("<script", page)
        self.assertNotIn("src=", page)
        self.assertIn("llama.cpp: q4_0/q4_0", page)

    def test_other_pages_are_named(self):
        output = self.run_frontier({"options": {"page_tokens": 128}, "rows": [row("tcq4/tcq4", 4.2, 0.003)]},
                                   {"options": {"page_tokens": 64}, "rows": [row("tcq4/tcq4", 4.3, 0.004)]})
        self.assertEqual([entry["page_tokens"] for entry in self.rows()], [128, 64])
        self.assertIn("tcq4/tcq4 p128  ", output)
        self.assertNotIn("p64", output)

    def test_peers_are_judged(self):
        peer = row("q4_0/q4_0", 4.5, 0.05, peer="llama.cpp", ppl=10.1)
        ours = row("rot4/rot4", 4.5, 0.04, ppl=10.05)
        few = "rot4/rot4: 4.50 bits for 4.50; not in "
        cases = [
            ("  ahead  rot4/rot4", [ours]),
            ("NOT AHEAD  " + few + "mean KLD", [ours | {"kld_mean": 0.05}]),
            ("NOT AHEAD  " + few + "99.9 % KLD", [ours | {"kld_p999": 1.0}]),
            ("NOT AHEAD  " + few + "perplexity", [ours | {"ppl": 10.1}]),
            # More bits do not count, and one row has to be better in everything.
            ("no row has so few bits", [ours | {"page_bits": 4.51}]),
            ("NOT AHEAD", [ours | {"ppl": 10.2}, row("rot3/rot3", 3.3, 0.06, ppl=10.0)]),
            # What is not in pages counts in effective bits.
            ("; in effective bits rot4/rot4: 4.58 for 4.80", [ours | {"effective_bits": 4.58}]),
            ("bits for 4.50; not in effective bits", [ours | {"effective_bits": 4.81}]),
            ("; in effective bits tcq3/tcq3", [ours | {"effective_bits": 4.81}, row("tcq3/tcq3", 3.3, 0.045, ppl=10.0)]),
            ("  ahead  tcq3/tcq3", [ours | {"ppl": 10.2}, row("tcq3/tcq3", 3.3, 0.045, ppl=10.0)]),
        ]
        rows = [entry | {"context": context} for context, (_, rows) in enumerate(cases) for entry in [peer, *rows]]
        lines = [line for line in self.run_frontier(rows).splitlines() if "  peer " in line]
        self.assertEqual(len(lines), len(cases))
        for line, (expected, _) in zip(lines, cases):
            self.assertIn(expected, line)

    def verdict(self, bits, *rows):
        """What is said about the goal of SmolLM2 at so many bits."""
        lines = [line for line in self.run_frontier(list(rows)).splitlines() if f"goal ≤ {bits} bits" in line]
        self.assertEqual(len(lines), 1)
        return "NOT MET" not in lines[0] and "met" in lines[0]

    def test_goals_are_judged(self):
        good = row("rot4/rot4", 4.3, 0.0045, ppl=10.079)
        self.assertTrue(self.verdict(4.3, good))
        self.assertFalse(self.verdict(4.3, good | {"page_bits": 4.3001}))
        self.assertFalse(self.verdict(4.3, good | {"kld_mean": 0.00451}))
        self.assertFalse(self.verdict(4.3, good | {"ppl": 10.081}))
        self.assertFalse(self.verdict(4.3, good | {"peer": "someone"}))
        # Reached with fewer bits, or by another row than the nearest.
        self.assertTrue(self.verdict(4.3, row("rot3/rot3", 3.3, 0.004)))
        self.assertTrue(self.verdict(4.3, row("a/a", 4.2, 0.004, ppl=10.5), row("b/b", 4.2, 0.0042)))
        # Other lengths and models have other goals, or none.
        self.assertNotIn("goal ≤", self.run_frontier([row("rot4/rot4", 4.3, 0.004, context=512)]))
        self.assertIn("goal ≤ 2.2 bits", self.run_frontier([row("rot2/rot2", 2.19, 0.04, model="qwen3-tiny")]))

    def test_the_column_says_which_goals_a_row_meets(self):
        output = self.run_frontier([row("rot3/rot3", 3.2, 0.006)])
        line, = [line for line in output.splitlines() if line.startswith("rot3/rot3")]
        self.assertIn("≤ 3.3 bits: 0.018, +2.5 %", line)
        self.assertIn("≤ 3.8 bits: 0.007", line)
        self.assertNotIn("≤ 4.3 bits", line)

    def test_bad_input_is_named(self):
        for expected, part in [
            ("is not JSON", "{"),
            ("holds no rows", {"x": 1}),
            ("there are no rows", []),
            ("row 0 has no kld_mean", [row("a/a", 2, 1) | {"kld_mean": None}]),
        ]:
            with self.subTest(expected):
                message = self.run_frontier(part, code=2)
                self.assertIn(expected, message)
                self.assertEqual(message.count("\n"), 1)


if __name__ == "__main__":
    unittest.main()
