#!/usr/bin/env python3
"""Makes the small GGUF files of tests/models/gguf.

usage: make_gguf.py FOLDER

blocks.gguf holds every type of tensor that can be read, with random codes and scales, and blocks.safetensors what the
package gguf makes of it. llama.gguf, qwen2.gguf and qwen3.gguf are random models whose tensors have all these types; run
dump_gguf_reference.py on each of them afterwards. Needs numpy, gguf and safetensors from PyPI.
"""

import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

TYPES = [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q6_K]
SCALES = {Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q6_K: [208]}  # bytes where an f16 begins
SIZES = {"hidden": 96, "inner": 256, "layers": 2, "head": 32}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PAIRS = ["\u0120 t", "h e", "\u0120t he", "i n", "a n", "an d", "\u0120 and", "o f", "\u0120 of", "L L", "' s", "\u010a A"]


def tensor(random, kind, rows, columns, scale):
    """Random blocks: every code occurs, scales are normal numbers."""
    if kind in (Type.F32, Type.F16, Type.BF16):
        return gguf.quantize((random.standard_normal((rows, columns)) * scale).astype(np.float32), kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
    for at in SCALES[kind]:
        step = scale * random.uniform(0.5, 1, len(blocks)) / {Type.Q8_0: 74, Type.Q6_K: 1400}.get(kind, 5)
        step *= -7.5 if at else 1  # Q4_1's minimum
        blocks[:, at:at + 2] = step.astype(np.float16)[:, None].view(np.uint8)
    return blocks.reshape(rows, -1)


def write_blocks(folder):
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(folder / "blocks.gguf", "none")
    values = {}
    for kind in TYPES:
        data = tensor(random, kind, 3, 512, 1.0)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        values[kind.name] = np.ascontiguousarray(gguf.dequantize(data, kind), dtype=np.float32)
    finish(writer)
    save_file(values, folder / "blocks.safetensors")


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def byte_letters():
    """The byte alphabet, bytes 0 to 255."""
    own = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    rest = iter(range(256, 512))
    return [chr(b) if b in own else chr(next(rest)) for b in range(256)]


def add_tokenizer(writer, pre):
    tokens = SPECIAL + byte_letters() + [pair.replace(" ", "") for pair in PAIRS]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(PAIRS)
    writer.add_eos_token_id(2)
    return len(tokens)


def write_model(folder, architecture, pre, heads, kv_heads, seed):
    random = np.random.default_rng(seed)
    hidden, inner, head = SIZES["hidden"], SIZES["inner"], SIZES["head"]
    writer = gguf.GGUFWriter(folder / f"{architecture}.gguf", architecture)
    vocabulary = add_tokenizer(writer, pre)
    writer.add_block_count(SIZES["layers"])
    writer.add_context_length(4096)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(vocabulary)
    if architecture == "qwen3":
        writer.add_key_length(head)
        writer.add_value_length(head)

    def add(name, kind, rows, columns):
        scale = 1 if name.startswith("token") else 1.5 / columns**0.5
        writer.add_tensor(name + ".weight", tensor(random, kind, rows, columns, scale), raw_dtype=kind)

    def add_vector(name, size, mean):
        writer.add_tensor(name, (mean + 0.3 * random.standard_normal(size)).astype(np.float32))

    add("token_embd", Type.Q8_0, vocabulary, hidden)
    for layer in range(SIZES["layers"]):
        block = f"blk.{layer}."
        kinds = iter(np.roll([Type.Q4_1, Type.Q4_0, Type.Q8_0, Type.F16, Type.BF16, Type.F32], layer))
        kind = lambda: Type(next(kinds))
        add_vector(block + "attn_norm.weight", hidden, 1)
        add_vector(block + "ffn_norm.weight", hidden, 1)
        for name, rows in (("attn_q", heads * head), ("attn_k", kv_heads * head), ("attn_v", kv_heads * head)):
            add(block + name, kind(), rows, hidden)
            if architecture == "qwen2":
                add_vector(block + name + ".bias", rows, 0)
            if architecture == "qwen3" and name != "attn_v":
                add_vector(block + name + "_norm.weight", head, 1)
        add(block + "attn_output", kind(), hidden, heads * head)
        add(block + "ffn_gate", kind(), inner, hidden)
        add(block + "ffn_up", kind(), inner, hidden)
        add(block + "ffn_down", Type.Q6_K, hidden, inner)
    add_vector("output_norm.weight", hidden, 1)
    if architecture == "qwen2":
        add("output", Type.F16, vocabulary, hidden)
    finish(writer)


def main():
    folder = Path(sys.argv[1])
    write_blocks(folder)
    write_model(folder, "llama", "smollm", 3, 1, 2)
    write_model(folder, "qwen2", "qwen2", 3, 3, 3)
    write_model(folder, "qwen3", "qwen2", 4, 2, 4)


if __name__ == "__main__":
    main()
