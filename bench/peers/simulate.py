#!/usr/bin/env python3
"""KIVI, TurboQuant and KVQuant inside a torch forward pass: keys and values are folded and unfolded in every layer of the
prefill, so that errors propagate as in use; each query sees what the method's paper lets it see. Simulations, not the
authors' code."""

import argparse
import sys

import torch
from kivi import Kivi
from kvquant import KvQuant
from scoring import Scorer, model_name, report, row, write
from texts import last_windows, lengths, token_ids
from torch_model import Exact, Folded, Model
from turboquant import TurboQuant

CALIBRATION_WINDOW = 512
LOGIT_ROWS = 512


class Recorder:
    """Keeps keys and values, and after backward() their gradients."""

    def __init__(self):
        self.taken = {}

    def fold(self, layer, keys, values, rotate):
        keys, values = (x.detach().requires_grad_() if layer == 0 else x for x in (keys, values))
        keys.retain_grad(), values.retain_grad()
        rotated = rotate(keys)
        self.taken[layer] = (keys, values, rotated)
        return Folded(rotated, values)


class Part:
    """A cache of which only keys or only values are folded, or whose queries see what Quire's see unfolded: the first four
    tokens and their own page of 64."""

    def __init__(self, cache, name="", keys=True, values=True, near=False):
        self.cache, self.keys, self.values, self.near = cache, keys, values, near
        self.name = cache.name + name
        self.peer = cache.peer.replace(" (", " + own page (") if near else cache.peer

    def fold(self, layer, keys, values, rotate):
        folded = self.cache.fold(layer, keys, values, rotate)
        if not self.keys:
            folded.keys, folded.exact_keys = folded.rotated, None
        if not self.values:
            folded.values, folded.exact_values = folded.true_values, None
        if self.near:
            folded.exact_keys = folded.exact_values = lambda i, j: (j // 64 == i // 64) | (j < 4)
        return folded

    def bits_of(self, context, width):
        page, effective = self.cache.bits_of(context, width)
        unfolded = min(1, (4 + context % 64) / context) if self.near else 0
        return page, effective + (16 - page) * unfolded


def calibrate(model, ids, tokens):
    """Over the first tokens of the text: KVQuant's samples, and the energy of every channel of rotated keys and values."""
    flat = lambda x: x.detach().transpose(0, 1).flatten(1)
    parts = [[] for _ in model.layers]
    energy = [[0] * len(model.layers) for _ in range(2)]
    for first in range(0, tokens, CALIBRATION_WINDOW):
        window = torch.tensor(ids[first:first + CALIBRATION_WINDOW + 1])
        recorder = Recorder()
        logits = model.logits(model.hidden(window[:-1], recorder))
        torch.nn.functional.cross_entropy(logits, window[1:]).backward()
        for layer, (keys, values, rotated) in recorder.taken.items():
            # The first token is never folded, so it teaches nothing.
            parts[layer].append([flat(x)[1:] for x in (keys, values, keys.grad.square(), values.grad.square())])
            energy[0][layer] += rotated.detach().square().sum(1)
            energy[1][layer] += values.detach().square().sum(1)
        if sys.stdout.isatty():
            print(f"calibrated on {first + CALIBRATION_WINDOW} tokens", end="\r", flush=True)
    return [[torch.cat(x) for x in zip(*layer)] for layer in parts], energy


def run(model, windows, cache, scorer):
    scorer.begin()
    with torch.no_grad():
        for window in windows:
            ids = torch.tensor(window)
            hidden = model.hidden(ids[:-1], cache)
            for first in range(0, len(hidden), LOGIT_ROWS):
                last = min(len(hidden), first + LOGIT_ROWS)
                scorer.add(model.logits(hidden[first:last]), ids[first + 1:last + 1])
    return scorer.end()


def caches_of(model, samples, energy, near, ablate):
    """As the papers define them, and those that fold the newest tokens again as if they left them alone like Quire: what is
    then left of a difference is the codec's."""
    if samples is None:
        return [Kivi(4), Kivi(2)]
    turbo = lambda bits, **split: TurboQuant(bits, model.dim, energy, **split)
    whole = [turbo(3), turbo(2)]
    whole += [KvQuant(bits, samples) for bits in (4, 3, 2)]
    caches = [Kivi(4), Kivi(2), *whole]
    if near:
        caches += [Part(cache, near=True) for cache in whole]
    if ablate:
        caches += [Part(cache, ", keys alone", values=False) for cache in whole]
        caches += [Part(cache, ", values alone", keys=False) for cache in whole]
        caches += [Part(KvQuant(bits, samples, fisher=False), ", no Fisher weights") for bits in (4, 3, 2)]
        splits = {", half of the channels": {"share": 2, "more": 1}, ", one bit more": {"more": 1},
                  ", keys unbiased": {"unbiased_keys": True}}
        caches += [Part(turbo(bits, **split), name) for name, split in splits.items() for bits in (3, 2)]
    return caches


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a Qwen3, or a .gguf file")
    parser.add_argument("--json", required=True, help="file for the rows")
    parser.add_argument("--contexts", default="512,2048,8192")
    parser.add_argument("--tokens", default="8192", help="tokens to read at each length: one number, or one for each")
    parser.add_argument("--calibration-tokens", type=int, default=8192, help="from the beginning of the text")
    parser.add_argument("--ablate", action="store_true",
                        help="also keys alone, values alone, levels without Fisher weights, other splits of TurboQuant's")
    parser.add_argument("--methods", default="kivi,turboquant,kvquant", help="which of them to measure")
    parser.add_argument("--no-near", action="store_true", help="not those that see their own page unfolded")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    model, ids = Model(options.model), token_ids(options.model)
    methods = tuple(options.methods.split(","))
    samples, energy = None, None
    if methods != ("kivi",):  # which calibrates nothing
        samples, energy = calibrate(model, ids, options.calibration_tokens)
    rows = []
    for context, tokens in lengths(options.contexts, options.tokens):
        windows = last_windows(ids, context, tokens)
        scorer = Scorer()
        reference = run(model, windows, Exact(), scorer)
        print(f"{model_name(options.model)} at {context} tokens: perplexity {reference['ppl']:.4f}", flush=True)
        caches = caches_of(model, samples, energy, not options.no_near, options.ablate)
        for cache in (cache for cache in caches if cache.peer.lower().startswith(methods)):
            figures = run(model, windows, cache, scorer)
            bits = cache.bits_of(context, model.kv_heads * model.dim)
            rows.append(row(options.model, context, cache.peer, (cache.name, cache.name), bits, figures))
            report(rows[-1])
            write(options.json, rows)


if __name__ == "__main__":
    main()
