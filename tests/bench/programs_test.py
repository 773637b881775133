#!/usr/bin/env python3
"""The programs as a user runs them: results, exit codes, one sentence per fault, nothing left behind.

usage: programs_test.py FOLDER_OF_PROGRAMS FOLDER_OF_MODELS
"""

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

MODELS = Path(sys.argv.pop())
PROGRAMS = Path(sys.argv.pop())
TINY = MODELS / "qwen3-tiny"
TEXT = TINY / "text_end.txt"
LLAMA = MODELS / "gguf" / "llama.gguf"

KEYS = """model context k_codec v_codec prefill_tok_s decode_tok_s effective_bits page_bits kv_bytes_device
kv_bytes_host kv_bytes_nvme peak_rss io_read_bytes io_write_bytes seconds_encode seconds_attend seconds_io p50_ms
p99_ms ttft_s seed isa threads version ppl ppl_ref kld_mean kld_p999 same_top1 needles needles_found
synthetic""".split()


class Programs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.spill = self.folder / "spill"
        self.spill.mkdir()

    def run_program(self, program, *options, text="", code=0, temporary=None):
        """Standard output, or with a code the one sentence on standard error."""
        command = [PROGRAMS / f"quire-{program}", *map(str, options)]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120,
                              env=dict(os.environ, TMPDIR=str(temporary or self.spill)), check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(list(self.spill.iterdir()), [], "files are left behind")
        return done.stderr if code else done.stdout

    def rows(self, program, *options):
        path = self.folder / "rows.json"
        self.run_program(program, *options, "--json", path)
        return json.loads(path.read_text())["rows"]

    def test_scale_reads_spills_and_finds(self):
        rows = self.rows("scale", "--text", TEXT, "--contexts", "1600", "--codecs", "bf16,rot4/rot4", "--needles",
                         2, "--decode", 3, "--host-budget", "8M", "--chunk", 256)
        self.assertEqual([row["k_codec"] for row in rows], ["bf16", "rot4"])
        for row in rows:
            self.assertEqual(set(KEYS) - set(row), set())
            self.assertEqual((row["context"], row["needles"], row["needles_found"]), (1600, 2, 2))
            values = row["context"] * 4 * 2 * 2 * 128  # layers, kv heads, keys and values, head_dim
            held = row["kv_bytes_device"] + row["kv_bytes_host"] + row["kv_bytes_nvme"]
            self.assertGreater(held, 0.95 * values * row["page_bits"] / 8, "bytes are of the whole context")
            self.assertGreater(row["decode_tok_s"], 0)
            self.assertLess(abs(row["ppl"] / row["ppl_ref"] - 1), 0.02)
        self.assertGreater(rows[0]["kv_bytes_nvme"], 0)
        self.assertGreater(rows[0]["io_write_bytes"], 0)
        self.assertEqual((rows[0]["kld_mean"], rows[0]["same_top1"]), (0, 1))
        self.assertTrue(0 < rows[1]["kld_mean"] < 0.05)
        self.assertTrue(4 < rows[1]["page_bits"] < 4.5 < rows[1]["effective_bits"])

    def spilled_bytes(self, process):
        """Bytes of the files that a process holds open in the spill folder, names or none."""
        total = 0
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(link).startswith(f"{self.spill}/"):
                    total += link.stat().st_blocks * 512
        return total

    def test_a_killed_program_leaves_nothing(self):
        command = [PROGRAMS / "quire-scale", "--text", TEXT, "--contexts", "4000", "--codecs", "bf16", "--needles", "0",
                   "--host-budget", "8M", "--chunk", "256"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=dict(os.environ, TMPDIR=str(self.spill))) as process:
            end = time.monotonic() + 100
            while self.spilled_bytes(process) < 1 << 20 and time.monotonic() < end and process.poll() is None:
                time.sleep(0.01)
            spilled = self.spilled_bytes(process)
            process.kill()
        self.assertEqual(process.returncode, -signal.SIGKILL)
        self.assertGreaterEqual(spilled, 1 << 20)
        self.assertEqual(list(self.spill.iterdir()), [])

    def test_scale_shows_a_live_view_on_a_terminal(self):
        command = [PROGRAMS / "quire-scale", "--text", TEXT, "--contexts", "3000", "--codecs", "bf16", "--needles", "0",
                   "--host-budget", "8M", "--chunk", "256", "--live"]
        primary, secondary = pty.openpty()
        with os.fdopen(primary, "rb", buffering=0) as screen:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=secondary, text=True,
                                  env=dict(os.environ, TMPDIR=str(self.spill))) as process:
                os.close(secondary)
                shown = b""
                with contextlib.suppress(OSError):  # what a terminal says when nobody holds it any more
                    while part := screen.read(4096):
                        shown += part
                table = process.stdout.read()
        self.assertEqual(process.returncode, 0, shown)
        self.assertIn("bf16/bf16", table)
        self.assertNotIn("\033", table)
        for line in (rb"\d+ tokens, \d+\.\d\d bits per value", rb"host +\[#+ *\] +[78]\.\d MiB of +8\.0 MiB",
                     rb"nvme read +\d+/s", rb"pages attended \d+/s", rb"\[#* *\] +\d+%"):
            self.assertRegex(shown, line)
        self.assertTrue(shown.endswith(b"\033[J"), "the view is left on the screen")
        self.assertIn("--live draws on a terminal", self.run_program("scale", "--live", code=2))

    def test_scale_measures_codecs_without_bf16_against_it(self):
        row, = self.rows("scale", "--text", TEXT, "--contexts", "512", "--codecs", "rot2", "--needles", 0)
        self.assertGreater(row["kld_mean"], 0)
        self.assertNotEqual(row["ppl"], row["ppl_ref"])

    def test_scale_selects_pages_and_says_what_it_misses(self):
        common = ("scale", "--text", TEXT, "--contexts", 1600, "--codecs", "rot4", "--needles", 0, "--decode", 4)
        exact, = self.rows(*common)
        self.assertIsNone(exact["missed_mass"])
        self.assertEqual((exact["selection"], exact["sparse_prefill"]), ("none", "none"))
        every, = self.rows(*common, "--select", "top:1000")
        self.assertEqual((every["ppl"], every["missed_mass"], every["attended"]), (exact["ppl"], 0, 1))
        some, = self.rows(*common, "--select", "top:3", "--select-window", 64, "--sparse-prefill", "mass:0.9", "--select-check")
        self.assertEqual((some["selection"], some["sparse_prefill"]), ("top:3", "mass:0.9"))
        self.assertTrue(0 < some["missed_mass"] < 1 and 0 < some["attended"] < 1, some)
        self.assertGreater(some["kld_mean"], exact["kld_mean"])
        alone, = self.rows(*common, "--select", "top:3", "--reference", "none")
        self.assertIsNone(alone["kld_mean"])

    def test_scale_reads_a_prompt_once_for_several_choices(self):
        common = ("scale", "--text", TEXT, "--contexts", 1600, "--codecs", "rot4", "--needles", 2, "--decode", 4, "--chunk",
                  256, "--reference", "none", "--sparse-prefill", "top:4", "--prefill-window", 64, "--select-window", 64)
        together = self.rows(*common, "--select", "top:3", "--also-select", "none,mass:0.5")
        self.assertEqual([row["selection"] for row in together], ["top:3", "none", "mass:0.5"])
        for row in together:
            alone, = self.rows(*common, "--select", row["selection"])
            for key in ("ppl", "attended", "needles_found", "sparse_prefill", "attended_pages_host", "kv_bytes_host",
                        "page_bits", "effective_bits"):
                self.assertEqual(row[key], alone[key], key)
            self.assertAlmostEqual(row["missed_mass"] or 0, alone["missed_mass"] or 0, places=9)

    def test_scale_reads_ahead_of_the_choice(self):
        common = ("scale", "--text", TEXT, "--contexts", 1600, "--codecs", "bf16", "--needles", 2, "--decode", 20, "--chunk",
                  256, "--reference", "none", "--select", "top:3", "--select-window", 64, "--host-budget", "8M")
        plain, = self.rows(*common)
        ahead, = self.rows(*common, "--choose-ahead")
        for key in ("ppl", "attended", "missed_mass", "needles_found"):
            self.assertEqual(ahead[key], plain[key], key)
        self.assertEqual((plain["foreseen_sections"], plain["foreseen_sections_used"]), (0, 0))
        self.assertTrue(0 < ahead["foreseen_sections_used"] <= ahead["foreseen_sections"], ahead)

    def test_scale_fills_with_generated_values(self):
        row, = self.rows("scale", "--fill", "synthetic", "--shape", "tiny", "--contexts", "1000", "--codecs", "rot4",
                         "--decode", 2)
        self.assertEqual((row["model"], row["synthetic"], row["ppl"], row["needles"]), ("tiny", True, None, None))
        self.assertGreater(row["decode_tok_s"], 0)

    def test_generated_choices_are_counted_apart(self):
        common = ("scale", "--fill", "synthetic", "--shape", "tiny", "--contexts", "2048", "--codecs", "rot4", "--decode",
                  2, "--select-window", 64)
        exact, some, again = self.rows(*common, "--select", "top:8", "--also-select", "none")
        self.assertEqual([row["selection"] for row in (exact, some, again)], ["none", "top:8", "none"])
        self.assertTrue(some["missed_mass"] > 0 and some["attended"] < 1, some)
        for row in (exact, again):
            self.assertEqual((row["missed_mass"], row["attended"]), (None, None))
        self.assertEqual(again["attended_pages_host"], exact["attended_pages_host"])

    def test_ppl_counts_windows(self):
        rows = self.rows("ppl", "--text", TEXT, "--codecs", "int8,rot3", "--window", 512, "--stride", 256, "--skip",
                         256, "--windows", 2)
        self.assertEqual([row["k_codec"] for row in rows], ["int8", "rot3"])
        self.assertLess(rows[0]["kld_mean"], rows[1]["kld_mean"])
        self.assertGreater(rows[1]["page_bits"], 3)

    def test_frontier_measures_lengths(self):
        rows = self.rows("ppl", "--text", TEXT, "--frontier", "--contexts", "128,256", "--frontier-tokens", 512,
                         "--codecs", "rot4/rot3,int2")
        self.assertEqual([(row["context"], row["codec"]) for row in rows],
                         [(128, "rot4/rot3"), (128, "int2/int2"), (256, "rot4/rot3"), (256, "int2/int2")])
        self.assertEqual({(row["text"], row["peer"], row["model"]) for row in rows},
                         {("text_end.txt", None, "qwen3-tiny")})

    def test_calibrate_writes_what_the_others_read(self):
        path = self.folder / "tiny.calibration"
        output = self.run_program("calibrate", "--text", TEXT, "--tokens", 1024, "--window", 512, "--out", path,
                                  "--context", 512, "--budget", "2.8,3.3", "--candidates", "rot2,rot3,rot4")
        self.assertIn("calibrated@2.80: ", output)
        rows = self.rows("ppl", "--text", TEXT, "--calibration", path, "--codecs", "rot3,calibrated@3.3,calibrated@2.8",
                         "--window", 512, "--windows", 1)
        uniform, larger, smaller = rows
        self.assertEqual(larger["codec"], "calibrated@3.30")
        self.assertLess(larger["kld_mean"], uniform["kld_mean"])
        self.assertLess(smaller["page_bits"], 2.8)
        own, = self.rows("ppl", "--text", TEXT, "--calibration", path, "--codecs", "nuq2", "--window", 512, "--windows", 1)
        default, = self.rows("ppl", "--text", TEXT, "--codecs", "nuq2", "--window", 512, "--windows", 1)
        self.assertNotEqual(own["kld_mean"], default["kld_mean"])  # levels of the calibration
        self.assertEqual(own["page_bits"], default["page_bits"])
        row, = self.rows("scale", "--text", TEXT, "--contexts", 512, "--calibration", path, "--codecs",
                         "calibrated@2.8", "--needles", 0, "--decode", 1)
        self.assertEqual((row["k_codec"], row["v_codec"]), ("calibrated@2.80", "calibrated@2.80"))
        self.assertNotEqual(self.run_program("generate", "-p", "In the", "-n", 3, "--codec", "calibrated@2.8",
                                             "--calibration", path), "")
        self.fault("choose from calibrated@2.80, calibrated@3.30", "ppl", "--text", TEXT, "--calibration", path,
                   "--codecs", "calibrated")
        path.write_bytes(path.read_bytes()[:-1])
        self.fault("truncated", "ppl", "--text", TEXT, "--calibration", path)

    def test_inspect_shows_every_head(self):
        path = self.folder / "heads.json"
        output = self.run_program("inspect", "--text", TEXT, "--window", 256, "--codecs", "int4,rot4,rot2", "--json",
                                  path)
        self.assertEqual(len([line for line in output.splitlines() if " keys " in line]), 8)
        content = json.loads(path.read_text())
        self.assertEqual([(head["layer"], head["head"]) for head in content["heads"]],
                         [(layer, head) for layer in range(4) for head in range(2)])
        for head in content["heads"]:
            self.assertGreater(head["keys"]["spread"], 3)  # the model's keys were made with outlier channels
            self.assertEqual(len(head["keys"]["rms"]), 128)
            for side in ("keys", "values"):
                error = head[side]["output_error"]
                self.assertTrue(0 < error["rot4"] < error["rot2"] < 1)
        for layer in content["layers"]:
            self.assertTrue(0 < layer["kld_values"] < layer["kld_keys"] < 0.1)
        page = self.folder / "heads.html"
        script = Path(__file__).parents[2] / "bench/inspect_report.py"
        subprocess.run([sys.executable, "-B", script, path, page], check=True, timeout=120)
        self.assertIn("<svg", page.read_text())
        bad = subprocess.run([sys.executable, "-B", script, TEXT, page], capture_output=True, text=True, check=False)
        self.assertEqual((bad.returncode, bad.stderr.count("\n")), (2, 1))

    def test_generate_writes_the_same_text_for_a_seed(self):
        prompt = "And the LORD said unto Moses,"
        greedy = self.run_program("generate", "-p", prompt, "-n", 12)
        self.assertEqual(self.run_program("generate", "-n", 12, text=prompt), greedy)
        self.assertGreater(len(greedy.split()), 5)

        def sampled(seed):
            return self.run_program("generate", "-p", prompt, "-n", 12, "--temperature", 1, "--top-k", 50, "--top-p",
                                    0.95, "--seed", seed)

        self.assertEqual(sampled(1), sampled(1))
        self.assertNotEqual(sampled(1), sampled(2))

    def test_generate_starts_behind_what_the_store_holds(self):
        prompt = "And the LORD said unto Moses, Speak unto the children of Israel, " * 40

        def run(*more):
            path = self.folder / "row.json"
            text = self.run_program("generate", "-p", prompt, "-n", 8, "--json", path, *more)
            return text, json.loads(path.read_text())["options"]

        plain, _ = run()
        store = ("--store", self.folder / "blocks.quire", "--store-budget", "16M")
        first, told = run(*store)
        self.assertEqual((first, told["reused_tokens"]), (plain, 0))
        self.assertGreater(told["stored_blocks"], 2)
        again, told = run(*store)
        self.assertEqual((again, told["stored_blocks"]), (plain, 0))
        self.assertGreater(told["reused_tokens"], 128)
        other, told = run(*store, "--tenant", 5)
        self.assertEqual((other, told["reused_tokens"]), (plain, 0))
        self.fault("holds blocks of another geometry", "generate", "-p", prompt, "--codec", "int8", *store)

    def test_gguf_files_are_models(self):
        row, = self.rows("ppl", "--model", LLAMA, "--text", TEXT, "--codecs", "int8", "--window", 256, "--windows", 1)
        self.assertEqual(row["model"], "llama")
        self.assertTrue(0 < row["kld_mean"] < 0.01)
        row, = self.rows("scale", "--model", LLAMA, "--text", TEXT, "--contexts", 256, "--codecs", "int8", "--needles", 0)
        self.assertGreater(row["same_top1"], 0.9)
        self.assertNotEqual(self.run_program("generate", "--model", LLAMA, "-p", "In the beginning", "-n", 8), "")
        for name, content, expected in [
            ("cut.gguf", LLAMA.read_bytes()[:200_000], ": tensor blk.0.ffn_up.weight reaches beyond the end of the file"),
            ("short.gguf", LLAMA.read_bytes()[:1000], " is truncated or damaged"),
            ("other.gguf", TEXT.read_bytes(), " is no GGUF file"),
        ]:
            (self.folder / name).write_bytes(content)
            self.fault(f"{name}{expected}", "generate", "--model", self.folder / name, "-p", "a")

    def test_help_exits_with_0_and_shows_an_example(self):
        for program in ("scale", "ppl", "generate", "calibrate", "inspect"):
            text = self.run_program(program, "--help")
            self.assertIn("--json", text)
            self.assertRegex(text, rf"(?s)Examples?:.*quire-{program} ")

    def fault(self, expected, program, *options, text="", temporary=None):
        message = self.run_program(program, *options, text=text, code=2, temporary=temporary)
        self.assertIn(expected, message)
        self.assertTrue(message.startswith(f"quire-{program}: "), message)
        self.assertEqual(message.count("\n"), 1, message)

    def damaged(self, name, change):
        """A copy of the model with one file changed (or removed, when change gives None)."""
        copy = self.folder / name.replace(".", "-")
        shutil.copytree(TINY, copy, ignore=shutil.ignore_patterns("reference*", "text*"))
        content = change((copy / name).read_bytes())
        (copy / name).unlink()
        if content is not None:
            (copy / name).write_bytes(content)
        return copy

    def test_bad_models_are_named(self):
        def config(**changes):
            return lambda content: json.dumps(json.loads(content) | changes).encode()

        def without_head_dim(content):
            return json.dumps({k: v for k, v in json.loads(content).items() if k != "head_dim"}).encode()

        self.fault("/none is no model;", "generate", "--model", "/none", "-p", "a")
        for name, change, expected in [
            ("model.safetensors", lambda _: None, "model.safetensors: No such file"),
            ("model.safetensors", lambda content: content[:-1000], "truncated"),
            ("model.safetensors", lambda content: content.replace(b'"BF16"', b'"BF19"', 1), "dtype BF19"),
            ("config.json", lambda _: None, "config.json: No such file"),
            ("config.json", without_head_dim, 'lacks the key "head_dim"'),
            ("config.json", config(hidden_size=128), "config.json asks for"),
            ("config.json", config(vocab_size=4094), "tokenizer.json has ids up to 4095"),
            ("tokenizer.json", lambda content: content[:5000], "not valid JSON"),
        ]:
            with self.subTest(expected):
                copy = self.damaged(name, change)
                self.fault(expected, "generate", "--model", copy, "-p", "a")
                shutil.rmtree(copy)

    def test_bad_options_are_named(self):
        for expected, program, *options in [
            ("no codec \"rot5\"", "scale", "--text", TEXT, "--codecs", "rot5"),
            ("does not fit", "scale", "--text", TEXT, "--contexts", 100000),
            ("cannot read /none", "scale", "--text", "/none"),
            ("cannot write /none/x.json", "scale", "--json", "/none/x.json"),
            ("host_budget", "scale", "--text", TEXT, "--contexts", 512, "--host-budget", 4096),
            ("/none", "scale", "--text", TEXT, "--contexts", 512, "--nvme-path", "/none"),
            ("chooses no pages", "scale", "--select", "top"),
            ("chooses no pages", "scale", "--also-select", "none,top"),
            ("chooses no pages", "scale", "--sparse-prefill", "mass:1.5"),
            ("no shape \"x\"", "scale", "--fill", "synthetic", "--shape", "x"),
            ("lower --window", "ppl", "--text", TEXT, "--window", 100000),
            ("--skip 9", "ppl", "--text", TEXT, "--window", 8, "--skip", 9),
            ("--calibration", "ppl", "--text", TEXT, "--codecs", "calibrated"),
            ("no mix", "ppl", "--text", TEXT, "--codecs", "calibrated@x"),
            ("is no calibration", "ppl", "--text", TEXT, "--calibration", TEXT),
            ("cannot write /none/x", "calibrate", "--text", TEXT, "--out", "/none/x"),
            ("lower --window", "calibrate", "--text", TEXT, "--out", "/dev/null", "--tokens", 100),
            ("for a model", "scale", "--fill", "synthetic", "--shape", "tiny", "--codecs", "calibrated"),
            ("name a pair", "inspect", "--text", TEXT, "--alone", "calibrated"),
            ("cannot write /none/x", "inspect", "--text", TEXT, "--json", "/none/x"),
            ("the prompt is empty", "generate", "-p", ""),
            ("1048576 positions", "generate", "-p", "a", "-n", 2000000),
            ("top_p", "generate", "-p", "a", "--temperature", 1, "--top-p", 2),
            ("temperature", "generate", "-p", "a", "--temperature", -1),
            ("cannot write /none/x.json", "generate", "-p", "a", "--json", "/none/x.json"),
            ("trace to /none/x.json", "generate", "-p", "a", "--trace", "/none/x.json"),
            ("lower --needles", "scale", "--text", TEXT, "--contexts", 64),
        ]:
            with self.subTest(expected):
                self.fault(expected, program, *options)

    def test_options_that_do_not_parse_are_named(self):
        for expected, program, *options in [
            ("--bogus", "ppl", "--bogus"),
            ("--threads: Value 0 not in range", "generate", "--threads", 0),
            ("--host-budget: q unit not recognized", "scale", "--host-budget", "12q"),
        ]:
            with self.subTest(expected):
                self.fault(expected, program, *options)

    def test_a_temporary_folder_that_is_none_is_named(self):
        self.fault("/none", "scale", "--text", TEXT, "--contexts", 512, temporary="/none")
        self.fault("/none", "ppl", "--text", TEXT, "--window", 64, "--windows", 1, temporary="/none")
        self.run_program("generate", "-p", "a", "-n", 1, temporary="/none")

    def test_prompts_that_are_no_text_are_named(self):
        prompt = self.folder / "prompt"
        prompt.write_bytes(b"ab\xff")
        self.fault("not valid UTF-8 at byte 2", "generate", "--prompt-file", prompt)


if __name__ == "__main__":
    unittest.main()
