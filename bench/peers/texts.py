"""The text that Quire's programs read, as the token ids of a model, cut as quire-ppl cuts it."""

import subprocess
from pathlib import Path

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

QWEN2_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
               r"|\s+(?!\S)|\s+")
CONTROL = 3  # tokenizer.ggml.token_type


def king_james():
    """One verse a line, verse numbers cut off."""
    verses = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True).stdout
    return "".join(verse.split(" ", 1)[1] + "\n" for verse in verses.splitlines())


def gguf_tokenizer(fields):
    """The tokenizer of a GGUF file, set up as its makers publish it in tokenizer.json."""
    value = lambda key: fields["tokenizer.ggml." + key].contents()
    tokens, types = value("tokens"), value("token_type")
    merges = [tuple(merge.split(" ")) for merge in value("merges")]
    out = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    if value("pre") == "smollm":
        out.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    else:
        out.normalizer = normalizers.NFC()
        out.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated"),
             pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    out.add_special_tokens([AddedToken(token, normalized=False, special=True)
                            for token, kind in zip(tokens, types) if kind == CONTROL])
    return out


def token_ids(model):
    """The text's ids for a GGUF file or a model folder."""
    model = Path(model)
    if model.is_dir():
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    else:
        tokenizer = gguf_tokenizer(gguf.GGUFReader(model).fields)
    lines = king_james().splitlines(keepends=True)  # words end at line ends, so lines can be encoded by themselves
    return [i for encoding in tokenizer.encode_batch(lines) for i in encoding.ids]


def last_windows(ids, context, tokens):
    """The last windows of context + 1 ids (the last is only predicted), that read `tokens` in all."""
    count = max(1, tokens // context)
    ends = [len(ids) - i * context for i in range(count)]
    return [ids[end - context - 1:end] for end in reversed(ends)]


def lengths(contexts, tokens):
    """[(length, tokens to read at it)] of two options: "512,2048" and "4096,8192", or one number of tokens for all."""
    contexts, tokens = ([int(number) for number in option.split(",")] for option in (contexts, tokens))
    if len(tokens) not in (1, len(contexts)):
        raise SystemExit(f"--tokens names {len(tokens)} numbers for {len(contexts)} lengths: give one, or one for each")
    return list(zip(contexts, tokens * (len(contexts) // len(tokens))))
