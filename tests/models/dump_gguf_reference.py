#!/usr/bin/env python3
"""What Hugging Face makes of a GGUF file: activations by transformers, token ids by tokenizers.

usage: dump_gguf_reference.py MODEL.gguf FOLDER

Writes FOLDER/reference.safetensors and FOLDER/tokenizer_cases.json (tests/models/README.md says what is in them).
Needs torch, transformers, accelerate, tokenizers, safetensors and gguf from PyPI.
"""

import json
import sys
from pathlib import Path

import torch
from gguf import GGUFReader
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "peers"))
from texts import gguf_tokenizer  # noqa: E402

GENESIS = """In the beginning God created the heaven and the earth.
And the earth was without form, and void; and darkness was upon the face of the deep. And the Spirit of God moved \
upon the face of the waters.
And God said, Let there be light: and there was light.
And God saw the light, that it was good: and God divided the light from the darkness.
And God called the light Day, and the darkness he called Night. And the evening and the morning were the first day.
And God said, Let there be a firmament in the midst of the waters, and let it divide the waters from the waters.
And God made the firmament, and divided the waters which were under the firmament from the waters which were above \
the firmament: and it was so.
"""
TEXTS = ["", " ", "Hello", " Hello  world", "It's 2024, isn't it?", "12345 678", "a  1", "a   1 \n 2", "\n\n\t x",
         "tabs\t\tand  blanks   ", "x\r\ny\r\n\r\n", "caf\u00e9 cafe\u0301 \u00c5ngstr\u00f6m", "\u6f22\u5b57 \u304b\u306a",
         "\U0001f600 \U0001f468\u200d\U0001f469", "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
         "for (int i = 0; i < 10; ++i) x[i] += 0.5f;", "\u0663\u0664 \u00bd \u2167", "we'll THEY'RE I'm o'clock", GENESIS]
TOKENS = 160


def load(path):
    """In float32, with matrices rounded to bf16 as the decoder holds them."""
    length = next((field for key, field in GGUFReader(path).fields.items() if key.endswith(".key_length")), None)
    more = {} if length is None else {"head_dim": length.contents()}  # transformers does not look for it itself
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32, **more).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.copy_(weight.bfloat16().float())
    return model


def main():
    path, folder = Path(sys.argv[1]), Path(sys.argv[2])
    tokenizer = gguf_tokenizer(GGUFReader(path).fields)
    cases = [{"text": text, "ids": tokenizer.encode(text).ids} for text in TEXTS]
    (folder / "tokenizer_cases.json").write_text(json.dumps({"cases": cases}, ensure_ascii=True, indent=1) + "\n")
    ids = torch.tensor(cases[-1]["ids"][:TOKENS])
    model = load(path)
    with torch.no_grad():
        out = model(ids[None], output_hidden_states=True)
        greedy = model.generate(ids[None], max_new_tokens=24, do_sample=False)[0, len(ids):]
    log_p = torch.log_softmax(out.logits[0].double(), -1)
    hidden = torch.stack([h[0] for h in out.hidden_states])  # inputs of the layers, then the final norm
    save_file({
        "input_ids": ids,
        "greedy24": greedy,
        "nll": -log_p[:-1].gather(1, ids[1:, None])[:, 0].float(),
        "hidden_rms": hidden.square().mean(-1).sqrt(),
        "final_hidden_last": hidden[-1, -1].contiguous(),
        "logits_last": out.logits[0, -1].contiguous(),
    }, folder / "reference.safetensors")


if __name__ == "__main__":
    main()
