#!/usr/bin/env python3
"""llama.cpp's quantized caches (with the rotation that it turns on for them) against its own cache in f16, on the windows
of quire-ppl."""

import argparse
import os

import llama_cpp
import torch
from scoring import Scorer, model_name, report, row, write
from texts import last_windows, lengths, token_ids

TYPES = {"f16": (llama_cpp.GGML_TYPE_F16, 16), "q8_0": (llama_cpp.GGML_TYPE_Q8_0, 8.5),
         "q5_0": (llama_cpp.GGML_TYPE_Q5_0, 5.5), "q4_0": (llama_cpp.GGML_TYPE_Q4_0, 4.5)}  # and bits per value
REFERENCE = ("f16", "f16")
PAIRS = [("q8_0", "q8_0"), ("q8_0", "q4_0"), ("q5_0", "q5_0"), ("q4_0", "q4_0")]
CHUNK = 512


def run(path, windows, pair, scorer, threads):
    context = len(windows[0]) - 1
    llama = llama_cpp.Llama(path, n_ctx=context, n_batch=CHUNK, n_ubatch=CHUNK, n_threads=threads,
                            n_threads_batch=threads, type_k=TYPES[pair[0]][0], type_v=TYPES[pair[1]][0],
                            flash_attn=True, logits_all=True, verbose=False)
    scorer.begin()
    for window in windows:
        llama.reset()
        for first in range(0, context, CHUNK):
            last = min(context, first + CHUNK)
            llama.eval(window[first:last])
            logits = torch.from_numpy(llama.scores[first:last].copy())
            scorer.add(logits, torch.tensor(window[first + 1:last + 1]))
    llama.close()
    return scorer.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help=".gguf file")
    parser.add_argument("--json", required=True, help="file for the rows")
    parser.add_argument("--contexts", default="512,2048,8192")
    parser.add_argument("--tokens", default="8192", help="tokens to read at each length: one number, or one for each")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()

    ids, rows = token_ids(options.model), []
    for context, tokens in lengths(options.contexts, options.tokens):
        scorer, windows = Scorer(), last_windows(ids, context, tokens)
        reference = run(options.model, windows, REFERENCE, scorer, options.threads)
        print(f"{model_name(options.model)} at {context} tokens: perplexity {reference['ppl']:.4f}", flush=True)
        for pair in PAIRS:
            figures = run(options.model, windows, pair, scorer, options.threads)
            bits = sum(TYPES[side][1] for side in pair) / 2
            rows.append(row(options.model, context, "llama.cpp", pair, (bits, bits), figures))
            report(rows[-1])
            write(options.json, rows)


if __name__ == "__main__":
    main()
