#!/usr/bin/env python3
"""quire-ppl --gate: a baseline passes what it was made from, fails every figure that worsens, refuses what is none.

usage: gate_test.py QUIRE_PPL TINY_MODEL
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TINY = Path(sys.argv.pop())
PPL = Path(sys.argv.pop())
TEXT = TINY / "text_end.txt"
FIGURES = ("ppl", "kld_mean", "kld_p999", "same_top1", "effective_bits", "page_bits")


class Gate(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.baseline = cls.folder / "baseline.json"
        cls.run_ppl("--text", TEXT, "--codecs", "int4,rot3/rot2", "--window", 256, "--windows", 1, "--sink-tokens", 2,
                    "--baseline", cls.baseline)

    @staticmethod
    def run_ppl(*options, code=0):
        done = subprocess.run([PPL, "--model", TINY, *map(str, options)], capture_output=True, text=True, timeout=120,
                              check=False)
        if done.returncode != code:
            raise AssertionError(f"exit code {done.returncode}, wanted {code}: {done.stderr}")
        return done.stderr if code == 2 else done.stdout

    def doctored(self, change):
        content = json.loads(self.baseline.read_text())
        change(content)
        path = self.folder / "doctored.json"
        path.write_text(json.dumps(content))
        return path

    def test_a_baseline_passes_its_own_run(self):
        content = json.loads(self.baseline.read_text())
        self.assertEqual([row["codec"] for row in content["rows"]], ["int4/int4", "rot3/rot2"])
        self.assertEqual(content["settings"]["sink_tokens"], 2)
        # Settings come from the file, whatever the command line says.
        output = self.run_ppl("--text", TEXT, "--gate", self.baseline, "--window", 512, "--sink-tokens", 4)
        self.assertNotIn("WORSE", output)
        for figure in FIGURES:
            self.assertEqual(output.count(f" {figure} "), 2, output)

    def test_each_figure_that_worsens_fails(self):
        for figure in FIGURES:
            for row in range(2):
                # The baseline gets better than the run by two margins.
                def change(content, figure=figure, row=row):
                    margin = content["margins"][figure]
                    value = content["rows"][row][figure]
                    step = 2 * (margin["relative"] * value + margin["absolute"])
                    content["rows"][row][figure] = value + step if figure == "same_top1" else value - step

                with self.subTest(f"{figure} of row {row}"):
                    output = self.run_ppl("--text", TEXT, "--gate", self.doctored(change), code=1)
                    worse = [line for line in output.splitlines() if line.endswith("WORSE")]
                    self.assertEqual(len(worse), 1, output)
                    self.assertIn(figure, worse[0])

    def test_what_is_within_the_margin_passes_and_better_is_said(self):
        def change(content):
            row = content["rows"][0]
            row["kld_mean"] /= 1 + 0.9 * content["margins"]["kld_mean"]["relative"]
            row["same_top1"] -= 0.1

        output = self.run_ppl("--text", TEXT, "--gate", self.doctored(change))
        self.assertEqual(output.count("  better"), 1, output)

    def test_margins_survive_an_update(self):
        path = self.doctored(lambda content: content["margins"]["ppl"].update(relative=0.5, reason="mine"))
        self.run_ppl("--text", TEXT, "--codecs", "int8", "--window", 256, "--windows", 1, "--baseline", path)
        content = json.loads(path.read_text())
        self.assertEqual(content["margins"]["ppl"], {"relative": 0.5, "absolute": 0, "reason": "mine"})
        self.assertEqual([row["codec"] for row in content["rows"]], ["int8/int8"])

    def test_bad_input_exits_with_2(self):
        other = self.folder / "other.txt"
        other.write_text(TEXT.read_text()[1000:])
        for expected, text, change in [
            ("another text", other, lambda content: None),
            ("another model", TEXT, lambda content: content.update(model_fingerprint="0123")),
            ("has no rows", TEXT, lambda content: content.update(rows=[])),
            ('no number "kld_mean"', TEXT, lambda content: content["rows"][1].pop("kld_mean")),
            ('"settings"', TEXT, lambda content: content.pop("settings")),
            ('"window"', TEXT, lambda content: content["settings"].pop("window")),
            ("no key space", TEXT, lambda content: content["settings"].update(key_space="x")),
            ('"ppl"', TEXT, lambda content: content["margins"].pop("ppl")),
            ("negative", TEXT, lambda content: content["margins"]["ppl"].update(relative=-1)),
            ("no codec", TEXT, lambda content: content["rows"][0].update(codec="int5")),
        ]:
            with self.subTest(expected):
                message = self.run_ppl("--text", text, "--gate", self.doctored(change), code=2)
                self.assertIn(expected, message)
                self.assertEqual(message.count("\n"), 1, message)
        self.assertIn("/none", self.run_ppl("--text", TEXT, "--gate", "/none", code=2))


if __name__ == "__main__":
    unittest.main()
