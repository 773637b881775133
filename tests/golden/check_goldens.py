"""Rebuilds and reads every golden page with the Python writer and reader: check_goldens.py pages.json

Exits with 1 where a byte, a hash or a decoded value differs from the manifest, or where a flipped bit goes
unnoticed. README.md describes the manifest and how its inputs are made.
"""

import copy
import json
import struct
import sys
from collections.abc import Iterator
from typing import Any

from quire_codec import CODECS, Rows, clamp_row, f32, mean_step_entry, rotate_row, scale_step_entry
from quire_page import Header, OwnLevels, PageError, Section, read_page, write_page
from xxh3 import xxh3_64

Entry = dict[str, Any]  # one page of the manifest

_CODEC_IDS = {codec.name: number for number, codec in CODECS.items()}
_KEY_SPACES = {"post_rope": 0, "pre_rope": 1}


def draws(state: int) -> Iterator[int]:
    while True:
        state = (state * 1664525 + 1013904223) % 2**32
        yield state


def f32_of(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def wild(draw: int) -> float:
    bits = draw & 0xFFFF0000
    if bits & 0x7F800000 == 0x7F800000:
        bits &= ~0x40000000
    return f32_of(bits)


def huge(draw: int) -> float:
    fraction = draw % 2**23 if draw >> 16 & 1 else 0x7F0000 + draw % 2**16
    return f32_of((draw & 0x80000000) + 0x7F000000 + fraction)


def fading_shift(t: int) -> int:
    pair = t // 2
    if pair == 0:
        return 0
    return pair + 9 if pair < 9 else 8 * (pair - 5)


def is_mirrored(entry: Entry, t: int) -> bool:
    """Whether token t is the negative of the one before it."""
    last = entry["fill"] == "whisper" and t == entry["page_tokens"] - 1
    return t % 2 == 1 and entry["fill"] in ("fading", "whisper", "scale_step") and not last


def input_value(entry: Entry, draw: int, t: int, c: int) -> float:
    """x[t][c] of README.md's table of fills, before tokens are mirrored."""
    i, seed = draw // 256 - 2**23, entry["seed"]
    match entry["fill"]:
        case "flat":
            return i * 2.0**-21
        case "channels":
            return (int(i / 2) + (2**22 if c % 4 == 1 else 0)) * 2.0 ** (5 * c % 7 - 22)
        case "tokens":
            return i * 2.0 ** (-21 - t % 23)
        case "wild":
            return wild(draw)
        case "subnormal":
            return int(i / 4096) * 2.0**-149
        case "constant":
            return 1.5
        case "zeros":
            return 0.0 if draw < 2**31 else -0.0
        case "huge":
            return huge(draw)
        case "fading":
            return i * 2.0 ** (-21 - fading_shift(t))
        case "whisper":
            return i * 2.0 ** (-74 - 2 * (seed % 4) if t >= entry["page_tokens"] - 2 else -21)
        case "mean_step":
            return f32(127 * mean_step_entry(seed % 16)) if c == 0 else 0.0
        case "scale_step":
            return f32((44, 45, 127)[seed // 16 % 3] * scale_step_entry(seed % 16)) if c == 0 else 0.0
    raise ValueError(f"{entry['fill']} is no fill that README.md describes")


def input_rows(entry: Entry, codec: str, stream: int, diag: list[float] | None) -> Rows:
    """One side of one section, rotated where its codec asks for it."""
    draw = draws((entry["seed"] + stream) % 2**32)
    tokens, channels = range(entry["page_tokens"]), range(entry["head_dim"])
    rows = [[input_value(entry, next(draw), t, c) for c in channels] for t in tokens]
    for t in tokens:
        if is_mirrored(entry, t):
            rows[t] = [-x for x in rows[t - 1]]
    match CODECS[_CODEC_IDS[codec]].family:
        case "rotated" | "trellis":
            return [rotate_row(row, diag) for row in rows]
        case "uniform" | "nonuniform" as family:
            return [clamp_row(row, family) for row in rows]
    return rows


def own_levels(entry: Entry) -> OwnLevels:
    """The tables of keys and values that README.md gives to pages whose layer brings its own."""
    if not entry.get("own_levels"):
        return None, None
    keys, values = [13 * i + i % 3 - 101 for i in range(16)], [9 * i - 60 for i in range(16)]
    bits = [CODECS[_CODEC_IDS[entry[f"{side}_codec"]]].bits for side in ("key", "value")]
    return tuple(keys[: 2 ** bits[0]]), tuple(values[: 2 ** bits[1]])


def header_of(entry: Entry) -> Header:
    return Header(
        key_codec=_CODEC_IDS[entry["key_codec"]],
        value_codec=_CODEC_IDS[entry["value_codec"]],
        page_tokens=entry["page_tokens"],
        token_count=entry["token_count"],
        head_dim=entry["head_dim"],
        kv_heads=entry["kv_heads"],
        sink_tokens=entry["sink_tokens"],
        flags=_KEY_SPACES[entry["key_space"]],
        rope_epoch=entry["rope_epoch"],
        layer_params_hash=int(entry["layer_params_hash"], 16),
    )


def page_of(entry: Entry) -> bytes:
    """The page that FORMATS.md asks for, from the entry's recipe alone."""
    diag = [(1 + c % 5) / 4 for c in range(entry["head_dim"])] if entry["balanced"] else None
    heads = range(entry["kv_heads"])
    keys = [input_rows(entry, entry["key_codec"], 2 * h, diag) for h in heads]
    values = [input_rows(entry, entry["value_codec"], 2 * h + 1, None) for h in heads]
    foreign = tuple(entry["params"]) if "params" in entry else None
    return write_page(header_of(entry), keys, values, foreign, own_levels(entry))


def hash_text(data: bytes) -> str:
    return f"{xxh3_64(data):016x}"


def decoded_hash(rows: Rows, first: int) -> str:
    return hash_text(b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows[first:]))


def page_problems(entry: Entry, page: bytes) -> list[str]:
    """Where the bytes that this writer made differ from the golden page."""
    problems = []
    if len(page) != entry["page_bytes"]:
        problems.append(f"{len(page)} bytes, golden {entry['page_bytes']}")
    if hash_text(page) != entry["page_xxh3"]:
        problems.append(f"page hash {hash_text(page)}, golden {entry['page_xxh3']}")
    golden = bytes.fromhex(entry["page"]) if "page" in entry else page
    different = [i for i, (ours, theirs) in enumerate(zip(page, golden)) if ours != theirs]
    if different:
        problems.append(f"{len(different)} bytes differ, the first at {different[0]}")
    return problems


def decoded_problems(entry: Entry, header: Header, sections: list[Section]) -> list[str]:
    """Where what this reader made of a page differs from the golden page's fields and decoded values."""
    problems = [] if header == header_of(entry) else [f"read {header}"]
    first = entry["sink_tokens"]
    for side in ("keys", "values"):
        ours = [decoded_hash(getattr(section, side), first) for section in sections]
        if ours != entry[f"decoded_{side}_xxh3"]:
            problems.append(f"decoded {side} {ours}, golden {entry[f'decoded_{side}_xxh3']}")
    return problems


def check(entry: Entry, page: bytes) -> list[str]:
    """What is wrong with a golden, given the page this writer made for it."""
    problems = page_problems(entry, page)
    try:
        golden = bytes.fromhex(entry["page"]) if "page" in entry else page
        problems += decoded_problems(entry, *read_page(golden, own_levels(entry)))
        problems += decoded_problems(entry, *read_page(golden + b"no part of it", own_levels(entry)))
    except PageError as error:
        problems.append(str(error))
    return problems


def flipped(entry: Entry, byte: int) -> Entry:
    changed = copy.deepcopy(entry)
    page = bytearray.fromhex(entry["page"])
    page[byte] ^= 1
    changed["page"] = page.hex()
    return changed


def unnoticed_flips(entry: Entry, page: bytes) -> list[str]:
    """Bits of a whole golden page whose flip this check or the reader alone would miss."""
    missed = []
    for byte in range(0, len(page), 61):  # 61: every part of a page, in steps that share no factor with its sizes
        damaged = flipped(entry, byte)
        try:
            read_page(bytes.fromhex(damaged["page"]))
            missed.append(f"the reader accepts a flipped bit in byte {byte}")
        except PageError:
            pass
        if not check(damaged, page):
            missed.append(f"a flipped bit in golden byte {byte} goes unnoticed")
    wrong = hash_text(bytes(64))
    for key, value in (("page_xxh3", wrong), ("decoded_keys_xxh3", [wrong]), ("decoded_values_xxh3", [wrong])):
        if not check({**entry, key: value}, page):
            missed.append(f"a wrong {key} goes unnoticed")
    return missed


def describe(index: int, entry: Entry) -> str:
    names = f"{entry['key_codec']}/{entry['value_codec']} {entry['fill']}"
    return f"page {index} ({names} {entry['page_tokens']}x{entry['head_dim']})"


def main(manifest: str) -> int:
    with open(manifest, encoding="utf-8") as file:
        entries = json.load(file)
    failures, whole, total = 0, 0, 0
    for index, entry in enumerate(entries):
        page = page_of(entry)
        total += len(page)
        problems = check(entry, page)
        if "page" in entry and not problems:
            whole += 1
            problems = unnoticed_flips(entry, page)
        for problem in problems:
            print(f"{describe(index, entry)}: {problem}")
        failures += bool(problems)
    amount = f"{len(entries)} golden pages, {total} bytes rebuilt and decoded, {whole} of them byte for byte"
    print(f"{amount}: {failures} differ")
    if not failures and not whole:
        print(f"{manifest} holds no page byte for byte, so flipped bits could not be tried; write it anew")
        return 1
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: check_goldens.py pages.json")
    sys.exit(main(sys.argv[1]))
