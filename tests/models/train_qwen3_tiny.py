"""Trains the tiny Qwen3 on a CPU: King James text, copying, and key retrieval at random positions up to 2^20.

    pip install torch==2.13.0 transformers safetensors tokenizers numpy
    bible -f gen1:1-rev22:21 > kjv.txt
    python train_qwen3_tiny.py kjv.txt out_dir [minutes per phase ...]

kjv.txt keeps its verse numbers: they tell the books apart. The weights beside this file came from runs like
this one, stopped and resumed by hand, about two and a half hours in all on two cores, the last two
checkpoints averaged (which lowers held-out perplexity by 7 %); then outliers were planted into k_norm and
everything was rounded to bf16. README.md says what it can do.
"""

import math
import random
import re
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen3Config, Qwen3ForCausalLM

HELD_OUT = ("Ruth", "Eccl", "Jonah", "Mark", "Rev")
MAX_POSITION = 1 << 20
VOCABULARY = 4096
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
FIRST_SPECIAL = VOCABULARY - len(SPECIAL_TOKENS)
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Phase:
    minutes: float
    batch: int
    tokens: int
    peak_rate: float
    copy_share: float  # of sequences made of repeated passages
    needles: tuple  # range of the number of keys in a sequence
    lowest_temperature: float  # of attention
    far: bool = False  # positions jump by thousands
    decay: bool = True  # the rate falls linearly to 3 %
    norm_rate: float = 1.0  # of the norms' weights, relative


PHASES = [
    Phase(20, 8, 512, 2e-3, 0.0, (1, 5), 1.0, decay=False),
    Phase(32, 8, 512, 2e-3, 0.35, (1, 5), 1.0, decay=False),
    Phase(13, 2, 2048, 1e-3, 0.15, (1, 5), 1.0),
    Phase(28, 1, 8192, 4e-4, 0.08, (6, 20), 1.0, norm_rate=3),
    Phase(19, 2, 2048, 7e-4, 0.12, (4, 12), 0.5, norm_rate=3),
    Phase(15, 6, 768, 1.2e-3, 0.12, (4, 12), 0.55, far=True, norm_rate=3),
]

rng = random.Random(7)


def read_books(path):
    """Text by book, one verse a line, in the order of the file."""
    books = {}
    with open(path, encoding="utf-8") as file:
        for line in file.read().split("\n"):
            if match := re.match(r"([0-9]?[A-Za-z]+)", line):
                books.setdefault(match.group(1), []).append(line.split(" ", 1)[1])
    return {book: "\n".join(verses) + "\n" for book, verses in books.items()}


def make_tokenizer(text):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    keys = "\nThe pass key of Noah is 12345. Remember it.\n" * 200
    trainer = trainers.BpeTrainer(
        vocab_size=FIRST_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([line + "\n" for line in text.split("\n")] + [keys], trainer)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return tokenizer


def make_positions(count, far):
    """Consecutive, shifted, or with jumps, so that every distance up to 2^20 is seen; far: mostly large jumps."""
    positions = torch.arange(count)
    kind = rng.random()
    if kind < (0.12 if far else 0.35):
        return positions
    if not far and kind < 0.6:
        return positions + int(math.exp(rng.uniform(0, math.log(MAX_POSITION - count - 1))))
    for _ in range(rng.randrange(1, 5 if far else 4)):
        room = MAX_POSITION - 1 - int(positions[-1])
        low = 2000 if far else 1
        if far and kind < 0.6:
            jump = rng.random() * room / 2
        else:
            jump = math.exp(rng.uniform(math.log(low), math.log(max(room, low + 1))))
        positions[rng.randrange(1, count):] += max(0, min(int(jump), room))
    return positions


class Samples:
    """Training sequences with a weight per token: what can be learnt from context weighs more."""

    def __init__(self, ids, encode, names):
        self.ids = ids
        self.encode = encode
        self.names = names

    def window(self, count):
        first = rng.randrange(0, len(self.ids) - count)
        return self.ids[first:first + count].tolist()

    def copies(self, count):
        """Passages that come back; the loss counts only what can be copied."""
        tokens, weights, seen = [], [], []
        while len(tokens) < count:
            if seen and rng.random() < 0.6:
                passage = rng.choice(seen)
                first = 0 if rng.random() < 0.5 else rng.randrange(0, max(1, len(passage) - 8))
                passage = passage[first:]
                weights += [0.1] * min(2, len(passage)) + [2.0] * max(0, len(passage) - 2)
            else:
                length = rng.randrange(8, 65)
                if rng.random() < 0.5:
                    passage = [rng.randrange(0, FIRST_SPECIAL) for _ in range(length)]
                else:
                    passage = self.window(length)
                seen.append(passage)
                weights += [0.02] * length
            tokens += passage
        return tokens[:count], weights[:count]

    def needles(self, count, keys):
        """Text with pass keys told at random places and each asked for somewhere after."""
        body = self.window(count)
        names = rng.sample(self.names, keys)
        codes = ["".join(rng.choice("0123456789") for _ in range(5)) for _ in names]
        told = [rng.randrange(0, int(count * 0.9)) for _ in names]
        events = [(at, False, key) for key, at in enumerate(told)]
        events += [(rng.randrange(at + 1, count), True, key) for key, at in enumerate(told)]
        tokens, weights, last = [], [], 0
        for at, is_question, key in sorted(events):
            tokens += body[last:at]
            weights += [1.0] * (at - last)
            last = at
            if is_question:
                question = self.encode(f"The pass key of {names[key]} is")
                answer = self.encode(f" {codes[key]}.\n")
                tokens += question + answer
                weights += [0.3] * len(question) + [6.0] * (len(answer) - 1) + [1.0]
            else:
                line = self.encode(f"The pass key of {names[key]} is {codes[key]}. Remember it.\n")
                tokens += line
                weights += [0.3] * len(line)
        tokens += body[last:]
        weights += [1.0] * (len(body) - last)
        first = rng.choice((0, len(tokens) - count))
        return tokens[first:first + count], weights[first:first + count]

    def one(self, phase):
        if rng.random() < phase.copy_share:
            return self.copies(phase.tokens + 1)
        if rng.random() < 0.8:
            return self.needles(phase.tokens + 1, rng.randrange(*phase.needles))
        return self.window(phase.tokens + 1), [1.0] * (phase.tokens + 1)

    def batch(self, phase):
        """Inputs, targets, weights of the targets, positions: [batch, tokens] each."""
        rows = [self.one(phase) for _ in range(phase.batch)]
        tokens = torch.tensor([row[0] for row in rows])
        weights = torch.tensor([row[1] for row in rows])
        positions = torch.stack([make_positions(phase.tokens, phase.far) for _ in rows])
        return tokens[:, :-1], tokens[:, 1:], weights[:, 1:], positions


def make_model():
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=640,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=128,
            tie_word_embeddings=True,
            max_position_embeddings=MAX_POSITION,
            rope_parameters={"rope_type": "default", "rope_theta": 1e7},
            bos_token_id=FIRST_SPECIAL,
            eos_token_id=FIRST_SPECIAL,
        )
    )


class Trainer:
    def __init__(self, model, samples):
        self.model = model
        self.samples = samples
        self.temperature = 1.0
        # Hot attention in short training sequences asks for the margins that a million keys need at
        # temperature 1.
        for layer in model.model.layers:
            layer.self_attn.q_norm.register_forward_hook(lambda _module, _input, out: out * self.temperature)
        matrices = [p for p in model.parameters() if p.ndim > 1]
        norms = [p for p in model.parameters() if p.ndim == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}],
            betas=(0.9, 0.95),
        )

    def loss(self, phase):
        """The weighted loss to descend, and the plain mean to print."""
        inputs, targets, weights, positions = self.samples.batch(phase)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            # Without a mask, a jump in position_ids reads as packed sequences and hides what came before.
            mask = torch.ones_like(inputs)
            out = self.model(input_ids=inputs, position_ids=positions, attention_mask=mask, use_cache=False)
        logits = out.logits.float().flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="none").view_as(targets)
        return (loss * weights).sum() / weights.sum(), loss.mean()

    def set_rates(self, phase, step, share):
        rate = phase.peak_rate * min(1, (step + 1) / 50)
        if phase.decay:
            rate *= max(0.03, 1 - share)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.param_groups[1]["lr"] = rate * phase.norm_rate

    def run(self, number, phase, minutes):
        start, step = time.time(), 0
        while (share := (time.time() - start) / (minutes * 60)) < 1:
            self.temperature = 1.0 if rng.random() < 0.35 else rng.uniform(phase.lowest_temperature, 1.0)
            self.set_rates(phase, step, share)
            loss, mean = self.loss(phase)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            step += 1
            if step % 50 == 0:
                print(f"phase {number} {share:.2f} step {step} loss {mean:.3f}", flush=True)


def main(kjv, out, *minutes):
    torch.manual_seed(7)
    books = read_books(kjv)
    text = "".join(verses for book, verses in books.items() if book not in HELD_OUT)
    tokenizer = make_tokenizer(text)
    tokenizer.save(f"{out}/tokenizer.json")

    def encode(string):
        return tokenizer.encode(string).ids

    names = sorted(set(re.findall(r" ([A-Z][a-z]{3,9})", "".join(books.values()))))
    model = make_model()
    trainer = Trainer(model, Samples(np.array(encode(text)), encode, names))
    for number, phase in enumerate(PHASES):
        trainer.run(number, phase, float(minutes[number]) if number < len(minutes) else phase.minutes)
        model.save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
