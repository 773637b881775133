#!/usr/bin/env python3
"""Runs quire-generate with --device cuda over the emulator, and holds it to what --device cpu writes.

usage: programs_test.py QUIRE_GENERATE MODEL
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

PROMPT = "In the beginning God created the heaven and the earth. And the earth was without form, and void; " * 4


def run(program, model, device, *options):
    command = [program, "--model", model, "--device", device, "--device-budget", "32M", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def generated(program, model, device, *sampling):
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["-p", PROMPT, "-n", "6", "--codec", "f32/f32", "--json", str(report), *sampling]
        result = run(program, model, device, *options)
        assert result.returncode == 0, f"{device} {options}: {result.stderr}"
        return result.stdout, json.loads(report.read_text(encoding="utf-8"))["rows"][0]


def main():
    program, model = sys.argv[1:]
    for sampling in ([], ["--temperature", "0.8", "--top-k", "50", "--top-p", "0.9"]):
        text, row = generated(program, model, "cuda", *sampling)
        expected, _ = generated(program, model, "cpu", *sampling)
        assert text == expected, f"on the device: {text!r}; on the CPU: {expected!r}"
        assert row["kv_bytes_device"] > 0, row
    result = run(program, model, "cuda:9", "-p", "a", "-n", "1")
    assert result.returncode == 2, result
    assert "cuda:9: this machine has 1 CUDA device(s)" in result.stderr, result.stderr
    print("[counts] cases=3")


if __name__ == "__main__":
    main()
