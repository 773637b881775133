#!/usr/bin/env python3
"""bench/report.py: every number reaches the page, the page needs nothing else, bad input is refused.

usage: report_test.py REPORT_PY
"""

import json
import re
import subprocess
import sys
import tempfile
import unittest
from html.parser import HTMLParser
from pathlib import Path

REPORT = sys.argv.pop(1)

# The keys that quire-scale promises; every value is unlike every other, so that each can be looked for.
KEYS = """prefill_tok_s decode_tok_s effective_bits page_bits kv_bytes_device kv_bytes_host kv_bytes_nvme peak_rss
io_read_bytes io_write_bytes seconds_encode seconds_attend seconds_io p50_ms p99_ms ttft_s seed threads ppl ppl_ref
kld_mean kld_p999 same_top1 needles needles_found""".split()


def row(number, context, codec, **changes):
    made = {"model": "tiny", "context": context, "k_codec": codec, "v_codec": codec, "isa": "avx2",
            "version": "9.8.7", "synthetic": False}
    made.update({key: 1000 * number + 10 * i + 0.5 for i, key in enumerate(KEYS, start=1)})
    made.update(changes)
    return made


class Cells(HTMLParser):
    """Collects the text of table cells, and every address that the page would load."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.addresses, self.open, self.plots = [], [], False, 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.plots += tag == "svg"
        if tag in ("td", "th"):
            self.open = True
            self.cells.append("")
        self.addresses += [value for name, value in attrs
                           if name in ("src", "href", "xlink:href") and value and not value.startswith("#")]

    def handle_endtag(self, tag):
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, data):
        if self.open:
            self.cells[-1] += data


class Report(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_report(self, content, out="report.html"):
        source = self.folder / "scale.json"
        if content is not None:
            source.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        done = subprocess.run([sys.executable, "-B", REPORT, str(source), str(self.folder / out)],
                              capture_output=True, text=True, check=False)
        self.assertNotIn("Traceback", done.stderr)
        return done

    def page(self, content):
        done = self.run_report(content)
        self.assertEqual(done.returncode, 0, done.stderr)
        return Cells((self.folder / "report.html").read_text(encoding="utf-8"))

    def test_every_number_is_in_a_table(self):
        rows = [row(1, 4096, "bf16"), row(2, 4096, "rot4"), row(3, 16384, "bf16"), row(4, 16384, "rot4")]
        page = self.page({"options": {"host_budget": 777}, "rows": rows})
        for made in rows:
            for key in KEYS:
                self.assertIn(json.dumps(made[key]), page.cells, key)
        self.assertIn("777", page.cells)
        self.assertEqual(page.plots, 6)
        print(f"[counts] cases={len(rows) * len(KEYS)}")

    def test_the_page_is_self_contained(self):
        page = self.page([row(1, 4096, "bf16")])
        self.assertEqual(page.addresses, [])
        text = (self.folder / "report.html").read_text(encoding="utf-8")
        self.assertIsNone(re.search(r"<script|@import|url\((?!#)", text))

    def test_the_same_rows_give_the_same_page(self):
        rows = [row(1, 4096, "bf16"), row(2, 1005755, "rot4")]
        self.page(rows)
        first = (self.folder / "report.html").read_bytes()
        self.page(rows)
        self.assertEqual(first, (self.folder / "report.html").read_bytes())

    def test_synthetic_rows_are_labelled_and_may_lack_quality(self):
        unknown = {"ppl": None, "ppl_ref": None, "kld_mean": None, "prefill_tok_s": None}
        page = self.page([row(1, 1 << 20, "rot4", synthetic=True, **unknown)])
        self.assertIn("1M synthetic", page.cells)
        self.assertEqual(page.plots, 3)  # memory, bits, decode

    def test_text_is_escaped(self):
        page = self.page([row(1, 4096, "bf16", model="<b>&tiny")])
        self.assertIn("<b>&tiny", page.cells)

    def test_bad_input_is_one_sentence_and_code_2(self):
        bad = {
            "no file": None,
            "no JSON": "{",
            "no rows": {"rows": []},
            "rows of another kind": [1],
            "no codec": [{"context": 4096, "k_codec": "rot4"}],
            "no length": [row(1, 0, "rot4")],
        }
        for what, content in bad.items():
            with self.subTest(what):
                done = self.run_report(content)
                self.assertEqual(done.returncode, 2)
                self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        done = self.run_report([row(1, 4096, "rot4")], out="no/such/folder.html")
        self.assertEqual(done.returncode, 2)
        self.assertIn("no/such/folder.html", done.stderr)

    def test_help(self):
        done = subprocess.run([sys.executable, "-B", REPORT, "--help"], capture_output=True, text=True, check=True)
        self.assertIn("page_html", done.stdout)


if __name__ == "__main__":
    unittest.main()
