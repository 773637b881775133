#!/usr/bin/env python3
"""quire-micro: every case makes a row whose figures fit together; bad input is refused; the page holds the rows.

usage: programs_test.py QUIRE_MICRO QUIRE_MICRO_STEPS FOLDER_OF_BENCH_MICRO
"""

import json
import math
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PROGRAM, STEPS, FOLDER = sys.argv.pop(1), sys.argv.pop(1), Path(sys.argv.pop(1))
sys.path.insert(0, str(FOLDER))
import section_counts
SMALL = ["--tokens", "1024,2048", "--prefill-tokens", "1024", "--n-q", "64", "--kv-heads", "2", "--rounds", "2",
         "--isa", "best"]
CASES = {"attend", "prefill", "encode", "decode-page", "digest", "checksum", "neighbour"}
# Largest relative L2 errors that the kernels promise (kernels.h), by bits of a code.
BOUNDS = {16: 2e-6, 8: 2e-4, 4: 1e-2, 3: 1e-2, 2: 1e-2}
PRODUCTS = {"avx512": 64, "avxvnni": 32, "avx2": 16}  # of one dot instruction
BITS = {"bf16": 16, "int8": 8, "rot4": 4}


def run(*arguments):
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


class Rows(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.json = Path(cls.folder.name) / "micro.json"
        done = run(PROGRAM, *SMALL, "--codecs", "bf16,int8,rot4", "--groups", "2,4", "--json", str(cls.json))
        assert done.returncode == 0, done.stderr
        cls.rows = json.loads(cls.json.read_text(encoding="utf-8"))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_every_case_is_there(self):
        self.assertEqual({row["case"] for row in self.rows}, CASES)
        self.assertEqual({row["threads"] for row in self.rows}, {1, 2})
        self.assertEqual({row["key_space"] for row in self.rows if row["case"] == "attend"}, {"post_rope", "pre_rope"})
        attends = [row for row in self.rows if row["case"] == "attend" and row["key_space"] == "post_rope"]
        self.assertEqual(len(attends), 3 * 2 * 2 * 2)
        self.assertEqual({row["n_kv"] for row in attends}, {1024, 2048})
        print(f"[counts] cases={len(self.rows)}")

    def test_figures_fit_together(self):
        for row in self.rows:
            with self.subTest(row["case"], codec=row["k_codec"], threads=row["threads"]):
                self.assertGreater(row["seconds"], 0)
                self.assertLessEqual(row["seconds_p25"], row["seconds"])
                self.assertLessEqual(row["seconds"], row["seconds_p75"])
                self.assertTrue(math.isclose(row["share"], row["floor_seconds"] / row["seconds"]))
                self.assertTrue(math.isclose(row["gb_per_s"], row["bytes"] / row["seconds"] * 1e-9))
                if row["case"] != "neighbour":
                    self.assertEqual(row["floor_seconds"], max(row["read_seconds"], row["mac_seconds"]))

    def test_work_is_counted(self):
        """Multiply-accumulates follow from the shapes: two products, each in one or two parts."""
        for row in self.rows:
            if row["case"] in ("attend", "prefill"):
                products = row["n_q"] * row["group"] * 2 * row["n_kv"] * 128
                self.assertIn(row["macs"] / products, (2, 3, 4), row)
            if row["case"] == "attend":
                values = 2 * row["n_kv"] * 2 * 128
                self.assertLess(abs(row["bytes"] * 8 / values - BITS[row["k_codec"]]), 0.6, row)

    def test_counted_work_is_what_the_processor_executes(self):
        """Dot instructions of one section, counted step by step, times the products that one of them makes."""
        isa = self.rows[0]["isa"].replace("amx", "avx512")  # which serves few rows
        if isa not in PRODUCTS or run(STEPS, isa, "rot4", "1", "1").returncode == 1:
            self.skipTest("no program can be traced here, or the kernels are scalar")
        at = section_counts.phases_of(STEPS)
        for codec, space in (("int8", "post_rope"), ("rot4", "post_rope"), ("rot4", "pre_rope")):
            row = next(row for row in self.rows if row["case"] == "attend" and row["k_codec"] == codec
                       and row["key_space"] == space and row["group"] == 4)
            keys = codec if space == "post_rope" else f"{codec}/{space}"
            table = section_counts.section(STEPS, at, isa, keys, "4")
            dots = sum(counts["dots"] for counts in table.values())
            executed = dots * PRODUCTS[isa] / (row["macs"] / (row["n_kv"] / 64 * 2))
            self.assertGreaterEqual(executed, 1, codec)
            self.assertLess(executed, 1.05, codec)  # products with means are not part of the count

    def test_errors_are_within_the_kernels_bounds(self):
        for row in self.rows:
            if row["case"] in ("attend", "prefill"):
                self.assertLessEqual(row["error"], BOUNDS[BITS[row["k_codec"]]], row)
            if row["case"] in ("decode-page", "digest"):
                self.assertEqual(row["error"], 0)

    def test_the_page_holds_the_rows_and_needs_nothing_else(self):
        page = Path(self.folder.name) / "micro.html"
        done = run(sys.executable, "-B", str(FOLDER / "micro_report.py"), str(self.json), str(page))
        self.assertEqual(done.returncode, 0, done.stderr)
        text = page.read_text(encoding="utf-8")
        for row in self.rows:
            self.assertIn(f"<td>{json.dumps(row['seconds'])}</td>", text)
        self.assertGreaterEqual(text.count("<svg"), 3)
        self.assertIsNone(re.search(r"<script|@import|url\((?!#)", text))
        self.assertEqual(re.findall(r'(?:src|href)="(?!#)[^"]*"', text), [])


class BadInput(unittest.TestCase):
    def assert_refused(self, words, *arguments, lines=1):
        done = run(*arguments)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn(words, done.stderr)
        self.assertEqual(done.stderr.count("\n"), lines)

    def test_program(self):
        self.assert_refused("no codec is called 'rot5'", PROGRAM, "--codecs", "rot5")
        self.assert_refused("--isa", PROGRAM, "--isa", "mmx")
        self.assert_refused("--tokens", PROGRAM, "--tokens", "100")
        self.assert_refused("--head-dim", PROGRAM, "--head-dim", "100")
        self.assert_refused("no case", PROGRAM, *SMALL, "--benchmark_filter=nothing", lines=2)  # one is Google Benchmark's
        self.assert_refused("/no/such/folder", PROGRAM, *SMALL, "--codecs", "rot4", "--cases", "checksum", "--json",
                            "/no/such/folder/micro.json")

    def test_help_is_the_programs_own(self):
        done = run(PROGRAM, "--help")
        self.assertEqual(done.returncode, 0, done.stderr)
        for words in ("--codecs", "--benchmark_filter", "Example: quire-micro"):
            self.assertIn(words, done.stdout)

    def test_report(self):
        report = str(FOLDER / "micro_report.py")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "micro.json"
            self.assert_refused("micro.json", sys.executable, "-B", report, str(file), str(file))
            for content in ("{", "[]", "[1]", '[{"case": "attend"}]'):
                file.write_text(content, encoding="utf-8")
                self.assert_refused("micro.json", sys.executable, "-B", report, str(file), str(file))

    def test_scripts(self):
        self.assert_refused("--outt", "bash", str(FOLDER / "run.sh"), "--outt")
        self.assert_refused("--out", "bash", str(FOLDER / "run.sh"), "--out")
        self.assert_refused("--all", "bash", str(FOLDER / "update.sh"), "--all")
        peers = str(FOLDER.parent / "peers" / "run.sh")
        self.assert_refused("--outt", "bash", peers, "--outt")
        self.assert_refused("/no/such", "env", "QUIRE_PEERS_PREFIX=/no/such", "bash", peers)


if __name__ == "__main__":
    unittest.main()
