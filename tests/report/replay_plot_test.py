#!/usr/bin/env python3
"""bench/trace/plot.py: a line per policy and a panel per file; bad input gets one sentence.

usage: replay_plot_test.py PLOT_PY
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PLOT = sys.argv.pop(1)


def replay(policies=("lru", "optimum")):
    rows = [{"policy": policy, "memory_share": share, "hit_rate": share} for policy in policies for share in (.1, .5)]
    return {"options": {"select": "top:8", "sequences": 1, "context": 64}, "rows": rows}


class ReplayPlot(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_plot(self, *contents, code=0, out="plot.svg"):
        paths = []
        for number, content in enumerate(contents):
            paths.append(self.folder / f"replay{number}.json")
            paths[-1].write_text(content if isinstance(content, str) else json.dumps(content))
        command = [sys.executable, "-B", PLOT, *paths, "--out", self.folder / out]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stderr

    def test_every_policy_and_file_is_drawn(self):
        self.run_plot(replay(), replay(("newest",)))
        picture = (self.folder / "plot.svg").read_text()
        for text in ("top:8, 1 x 64 tokens", "optimum", "lru"):
            self.assertIn(f"<!-- {text} -->", picture)
        self.assertEqual(picture.count("<!-- top:8, 1 x 64 tokens -->"), 2)

    def test_bad_input_gets_one_sentence(self):
        for content in ("{", "[]", {"rows": []}, {"rows": [{"policy": "lru"}]}):
            sentence = self.run_plot(content, code=2)
            self.assertEqual(sentence.count("\n"), 1)
            self.assertIn("quire-trace --json", sentence)
        self.assertIn("can be written", self.run_plot(replay(), code=2, out="no/where.svg"))


if __name__ == "__main__":
    unittest.main()
