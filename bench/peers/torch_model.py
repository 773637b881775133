"""A dense Llama, Qwen2 or Qwen3 in torch, whose keys and values go through a cache that may fold them.

Weights are those that Quire multiplies with: every matrix rounded to bf16, products in f32.
"""

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

QUERY_BLOCK = 512  # queries of one attention product

NAMES = {"input_norm": ("input_layernorm.weight", "attn_norm.weight"),
         "mlp_norm": ("post_attention_layernorm.weight", "ffn_norm.weight"),
         "q": ("self_attn.q_proj.weight", "attn_q.weight"), "k": ("self_attn.k_proj.weight", "attn_k.weight"),
         "v": ("self_attn.v_proj.weight", "attn_v.weight"), "o": ("self_attn.o_proj.weight", "attn_output.weight"),
         "q_norm": ("self_attn.q_norm.weight", "attn_q_norm.weight"),
         "k_norm": ("self_attn.k_norm.weight", "attn_k_norm.weight"),
         "gate": ("mlp.gate_proj.weight", "ffn_gate.weight"), "up": ("mlp.up_proj.weight", "ffn_up.weight"),
         "down": ("mlp.down_proj.weight", "ffn_down.weight")}


def rounded(tensor):
    return tensor.bfloat16().float() if tensor.dim() == 2 else tensor.float()


class Model:
    def __init__(self, path):
        path = Path(path)
        (self.read_folder if path.is_dir() else self.read_gguf)(path)
        self.group = self.heads // self.kv_heads
        self.frequencies = self.theta ** (-torch.arange(0, self.dim, 2, dtype=torch.float64) / self.dim)

    def read_folder(self, path):
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.dim, self.eps = config["head_dim"], config["rms_norm_eps"]
        self.theta = config["rope_parameters"]["rope_theta"]
        tensors = {name: rounded(tensor) for name, tensor in load_file(path / "model.safetensors").items()}
        self.layers = [{short: tensors.get(f"model.layers.{i}.{name}") for short, (name, _) in NAMES.items()}
                       for i in range(config["num_hidden_layers"])]
        self.embedding, self.norm = tensors["model.embed_tokens.weight"], tensors["model.norm.weight"]
        self.head = tensors.get("lm_head.weight", self.embedding)

    def read_gguf(self, path):
        reader = gguf.GGUFReader(path)
        architecture = reader.fields["general.architecture"].contents()
        value = lambda key: reader.fields[f"{architecture}.{key}"].contents()
        self.heads, self.kv_heads = value("attention.head_count"), value("attention.head_count_kv")
        self.dim = value("embedding_length") // self.heads
        self.eps, self.theta = value("attention.layer_norm_rms_epsilon"), value("rope.freq_base")
        tensors = {t.name: rounded(torch.from_numpy(np.array(gguf.dequantize(t.data, t.tensor_type))))
                   for t in reader.tensors}
        self.layers = [{short: tensors.get(f"blk.{i}.{name}") for short, (_, name) in NAMES.items()}
                       for i in range(value("block_count"))]
        if architecture == "llama":  # rows of a rotary pair lie side by side
            for layer in self.layers:
                for side in ("q", "k"):
                    rows = layer[side].view(-1, self.dim // 2, 2, layer[side].shape[1])
                    layer[side] = rows.transpose(1, 2).reshape(layer[side].shape)
        self.embedding, self.norm = tensors["token_embd.weight"], tensors["output_norm.weight"]
        self.head = tensors.get("output.weight", self.embedding)

    def rms(self, x, weight):
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * weight

    def rotate(self, x):
        """x [heads, T, dim] at positions 0 to T - 1."""
        angles = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * self.frequencies
        cos, sin = angles.cos().float(), angles.sin().float()
        low, high = x.chunk(2, -1)
        return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)

    def attend(self, q, k, v, folded):
        """q, k, v rotated [heads, T, dim]; returns [T, heads * dim]."""
        if folded.exact_keys is None and folded.exact_values is None:
            keys, values = (x.repeat_interleave(self.group, 0) for x in (folded.keys, folded.values))
            out = torch.nn.functional.scaled_dot_product_attention(q[None], keys[None], values[None], is_causal=True)[0]
            return out.transpose(0, 1).flatten(1)
        grouped = (q / self.dim**0.5).view(self.kv_heads, self.group, -1, self.dim)
        blocks = [self.attend_block(grouped[:, :, first:first + QUERY_BLOCK], first, k, v, folded)
                  for first in range(0, q.shape[1], QUERY_BLOCK)]
        return torch.cat(blocks)

    def attend_block(self, q, first, k, v, folded):
        """The queries from `first` on, q [H_kv, group, rows, dim]. What some of them see unfolded stands in few columns; all of
        them see all others folded."""
        rows, columns = torch.arange(first, first + q.shape[2])[:, None], torch.arange(first + q.shape[2])[None]
        seen = [(predicate or (lambda i, j: j > i))(rows, columns) & (columns <= rows)
                for predicate in (folded.exact_keys, folded.exact_values)]
        is_few = (seen[0] | seen[1]).any(0) | (columns[0] >= first)
        few, rest = is_few.nonzero()[:, 0], (~is_few).nonzero()[:, 0]
        seen_keys, seen_values = (x[:, few] for x in seen)
        block = q.flatten(1, 2)
        scores = (block @ folded.keys[:, few].mT).unflatten(1, q.shape[1:3])
        exact = (block @ k[:, few].mT).view_as(scores)
        scores = torch.where(seen_keys, exact, scores).masked_fill(few > rows, -torch.inf)
        share = scores.softmax(-1)
        mixed = share.flatten(1, 2) @ folded.values[:, few]
        mixed += (share * seen_values).flatten(1, 2) @ (v[:, few] - folded.values[:, few])
        if len(rest) > 0:
            others, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                block[None], folded.keys[None, :, rest], folded.values[None, :, rest], scale=1)
            weight = (mass[0] - scores.logsumexp(-1).flatten(1)).sigmoid()[..., None]
            mixed = mixed + weight * (others[0] - mixed)
        return mixed.view(self.heads, q.shape[2], self.dim).transpose(0, 1).flatten(1)

    def hidden(self, ids, cache):
        """Output of the final norm [T, hidden]. `cache` folds (layer, keys before RoPE, keys, values), [H_kv, T, dim]."""
        x = self.embedding[ids]
        split = lambda y: y.view(len(ids), -1, self.dim).transpose(0, 1)
        for i, layer in enumerate(self.layers):
            y = self.rms(x, layer["input_norm"])
            q, k, v = (split(y @ layer[side].T) for side in "qkv")
            if layer["q_norm"] is not None:
                q, k = self.rms(q, layer["q_norm"]), self.rms(k, layer["k_norm"])
            folded = cache.fold(i, k, v, self.rotate)
            x = x + self.attend(self.rotate(q), folded.rotated, folded.true_values, folded) @ layer["o"].T
            y = self.rms(x, layer["mlp_norm"])
            x = x + (torch.nn.functional.silu(y @ layer["gate"].T) * (y @ layer["up"].T)) @ layer["down"].T
        return self.rms(x, self.norm)

    def logits(self, hidden):
        return hidden @ self.head.T


class Folded:
    """What attention reads of one layer, [H_kv, T, dim] each. exact_keys(i, j) says where query i sees key j unfolded."""

    def __init__(self, rotated, true_values, keys=None, values=None, exact_keys=None, exact_values=None):
        self.rotated, self.true_values = rotated, true_values
        self.keys = rotated if keys is None else keys
        self.values = true_values if values is None else values
        self.exact_keys, self.exact_values = exact_keys, exact_values


class Exact:
    """The reference: nothing is folded."""

    def fold(self, _, keys, values, rotate):
        return Folded(rotate(keys), values)
