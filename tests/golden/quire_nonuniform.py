"""The non-uniform codecs of FORMATS.md, a second time; quire_codec.py says how."""

import math
import struct
from bisect import bisect_left

from quire_codec import (
    Codec,
    Encoded,
    Levels,
    Rows,
    Side,
    clamp,
    f16_bytes,
    f16_from,
    f32,
    pack_codes,
    scaled,
    section_exponent,
    signed,
    stored_half,
    sum16,
    unpack_codes,
)


def e5m2(x: float) -> int:
    """The upper byte of f16(x), rounded to nearest even on the bit pattern; -0 becomes +0."""
    half = struct.unpack("<H", f16_bytes(x))[0]
    byte = half + 0x7F + (half >> 8 & 1) >> 8
    return 0 if byte == 0x80 else byte


def group_sum(side: Side, terms: list[float]) -> float:
    """sum(v) over the members of a group, in its side's order."""
    if side is Side.VALUES:
        return sum16(terms)
    total = terms[0]
    for term in terms[1:]:
        total = f32(total + term)
    return total


def distances(side: Side, members: list[float]) -> list[float]:
    """How far out each member of a group lies, in deviations."""
    share = f32(1 / len(members))
    mean = f32(group_sum(side, members) * share)
    from_mean = [f32(v - mean) for v in members]
    deviation = f32(math.sqrt(f32(group_sum(side, [f32(v * v) for v in from_mean]) * share)))
    inverse = f32(1 / deviation) if deviation >= 2.0**-60 else 0.0
    return [f32(abs(v) * inverse) for v in from_mean]


def lane_outliers(side: Side, groups: list[list[float]], first_group: int) -> list[int]:
    """The group of each lane's outlier: the farthest member's, the lowest of equals."""
    far = [distances(side, members) for members in groups]
    return [first_group + max(range(len(far)), key=lambda g: (far[g][lane], -g)) for lane in range(len(groups[0]))]


def q_norm(side: Side, x: list[float], levels: list[int], kept: list[bool], scale: float, mid: float):
    """(scale, mid) as stored, from those that the range gave."""

    def total(terms: list[float]) -> float:
        return group_sum(side, [term if keep else 0.0 for term, keep in zip(terms, kept)])

    d = [f32(v - mid) for v in x]
    n, level_sum, squares = float(sum(kept)), total([float(v) for v in levels]), total([float(v * v) for v in levels])
    offset, energy = total(d), total([f32(v * v) for v in d])
    spread = f32(f32(n * energy) - f32(offset * offset))
    level_spread = f32(f32(n * squares) - f32(level_sum * level_sum))
    if not (spread > 0 and level_spread > 0):
        return scale, mid
    wanted = f32(math.sqrt(f32(spread / level_spread))) * 2.0**7
    fitted = stored_half(clamp(wanted, scale * 0.5, scale * 2))
    return fitted, stored_half(f32(mid + f32(f32(offset - f32(fitted * 2.0**-7 * level_sum)) / n)))


def nonuniform_group(codec: Codec, side: Side, table: tuple[int, ...], x: list[float], kept: list[bool]):
    """(codes, scale, mid) of one group; `kept` is False for outliers."""
    inside = [v for v, keep in zip(x, kept) if keep] or x
    low, high = min(inside), max(inside)
    scale = stored_half(f32(f32(high - low) * float.fromhex("0x1.020408p-1")))
    mid = stored_half(f32(f32(low + high) * 0.5))
    inverse = f32(1 / (scale * 2.0**-7)) if scale else 0.0
    thresholds = [(a + b) / 2 for a, b in zip(table, table[1:])]
    codes = [bisect_left(thresholds, f32(f32(v - mid) * inverse)) for v in x]
    return codes, *q_norm(side, x, [table[code] for code in codes], kept, scale, mid)


def nonuniform_value(level: int, scale: float, mid: float) -> float:
    return f32(f32(level * (scale * 2.0**-7)) + mid)


def levels_of(codec: Codec, side: Side, own: Levels) -> tuple[int, ...]:
    return own or (codec.levels if side is Side.KEYS else codec.value_levels)


def encode_nonuniform(codec: Codec, side: Side, x: Rows, first: int, own: Levels) -> Encoded:
    table = levels_of(codec, side, own)
    exponent = section_exponent(x[first:])
    valid = scaled(x[first:], -exponent)
    left_out = 0 if side is Side.KEYS else first  # groups without members
    groups = [list(g) for g in (zip(*valid) if side is Side.KEYS else valid)]
    group_count, lane_count = (len(x[0]), len(x)) if side is Side.KEYS else (len(x), len(x[0]))
    scales, mids, words = [0.0] * group_count, [0.0] * group_count, [0] * lane_count
    codes = [[0] * len(x[0]) for _ in x]
    outliers = lane_outliers(side, groups, left_out) if codec.outliers and groups else []
    first_lane = first if side is Side.KEYS else 0
    for g, members in enumerate(groups, left_out):
        kept = [outliers[lane] != g for lane in range(len(members))] if codec.outliers else [True] * len(members)
        group_codes, scales[g], mids[g] = nonuniform_group(codec, side, table, members, kept)
        for lane, code in enumerate(group_codes):
            t, c = (first_lane + lane, g) if side is Side.KEYS else (g, lane)
            codes[t][c] = code
            if not kept[lane]:
                rest = f32(members[lane] - nonuniform_value(table[code], scales[g], mids[g]))
                words[first_lane + lane] = g + 256 * e5m2(rest)
    meta = b"".join(map(f16_bytes, scales + mids))
    if codec.outliers:
        meta += struct.pack(f"<{lane_count}H", *words)
    return Encoded(pack_codes(codes, codec.bits, side), meta, exponent % 2**32)


def decode_nonuniform(codec: Codec, side: Side, encoded: Encoded, tokens: int, head_dim: int, own: Levels) -> Rows:
    table = levels_of(codec, side, own)
    codes = unpack_codes(encoded.codes, codec.bits, side, tokens, head_dim)
    groups = head_dim if side is Side.KEYS else tokens
    scales = struct.unpack_from(f"<{groups}e", encoded.meta)
    mids = struct.unpack_from(f"<{groups}e", encoded.meta, 2 * groups)
    words = struct.unpack_from(f"<{(len(encoded.meta) - 4 * groups) // 2}H", encoded.meta, 4 * groups)
    factor = 2.0 ** clamp(signed(encoded.param, 32), -126, 127)

    def value(t: int, c: int) -> float:
        group, lane = (c, t) if side is Side.KEYS else (t, c)
        v = nonuniform_value(table[codes[t][c]], scales[group], mids[group])
        if words and min(words[lane] % 256, groups - 1) == group:
            v = f32(v + f16_from(bytes([0, words[lane] >> 8])))
        return f32(v * factor)

    return [[value(t, c) for c in range(head_dim)] for t in range(tokens)]
