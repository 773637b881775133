#!/usr/bin/env python3
"""Runs quire-generate and quire-ppl with --device cuda over the emulator, and holds them to what --device cpu writes.

usage: programs_test.py QUIRE_GENERATE QUIRE_PPL MODEL
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


def quality(program, model, device, *selection):
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        result = run(program, model, device, "--text", str(Path(model) / "text_end.txt"), "--codecs", "rot4", "--window", "160",
                     "--windows", "1", "--json", str(report), *selection)
        assert result.returncode == 0, f"quire-ppl on {device}: {result.stderr}"
        return json.loads(report.read_text(encoding="utf-8"))["rows"][0]


def main():
    program, ppl, model = sys.argv[1:]
    for sampling in ([], ["--temperature", "0.8", "--top-k", "50", "--top-p", "0.9"]):
        text, row = generated(program, model, "cuda", *sampling)
        expected, _ = generated(program, model, "cpu", *sampling)
        assert text == expected, f"on the device: {text!r}; on the CPU: {expected!r}"
        assert row["kv_bytes_device"] > 0, row
    result = run(program, model, "cuda:9", "-p", "a", "-n", "1")
    assert result.returncode == 2, result
    assert "cuda:9: this machine has 1 CUDA device(s)" in result.stderr, result.stderr
    # Queries and weights of prefill have 8 bits on the device (kAttendErrorBoundTiles): a tenth of what the codec itself costs.
    device, host = quality(ppl, model, "cuda"), quality(ppl, model, "cpu")
    assert abs(device["kld_mean"] - host["kld_mean"]) < 0.1 * host["kld_mean"], (device["kld_mean"], host["kld_mean"])
    assert abs(device["ppl"] / host["ppl"] - 1) < 1e-3, (device["ppl"], host["ppl"])
    assert device["kld_mean"] != host["kld_mean"], "the device sums in an order of its own: these figures are the CPU's"
    chosen = ["--select", "top:0", "--select-window", "16", "--sparse-prefill", "top:0", "--select-check"]
    device, host = quality(ppl, model, "cuda", *chosen), quality(ppl, model, "cpu", *chosen)
    assert host["missed_mass"] > 0.005, host["missed_mass"]
    assert abs(device["missed_mass"] / host["missed_mass"] - 1) < 1e-2, (device["missed_mass"], host["missed_mass"])
    assert abs(device["kld_mean"] - host["kld_mean"]) < 0.1 * host["kld_mean"], (device["kld_mean"], host["kld_mean"])
    assert device["attended_pages_device"] == host["attended_pages_host"] > 0, device
    print("[counts] cases=5")


if __name__ == "__main__":
    main()
