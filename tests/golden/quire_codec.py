"""The codecs of Quire pages a second time, written from quant/FORMATS.md alone.

Its worth is that it shares no line with the C++ kernels: where both agree, the document says enough. So it
follows the document's order and words and takes no shortcut. Numbers are Python floats that always hold an f32
value; `f32` rounds after every operation, which equals binary32 arithmetic, as a double has more than twice an
f32's digits. Rows are lists [token][channel], finite and in the codec's space. No state, so safe to call from
several threads.
"""

import math
import struct
from bisect import bisect_left
from ctypes import c_float
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

Rows = list[list[float]]
Codes = list[list[int]]
Levels = tuple[int, ...] | None  # a layer's own table, or None for the codec's
Number = TypeVar("Number", int, float)


class Side(Enum):
    KEYS = "keys"
    VALUES = "values"


@dataclass(frozen=True)
class Codec:
    """A codec: its family, its bits per code and, for rotated and trellis ones, the levels and the unit u.

    Non-uniform ones have levels for keys and, as value_levels, for values; `outliers` marks the s codecs.
    """

    name: str
    family: str
    bits: int
    levels: tuple[int, ...] = ()
    unit: float = 0.0
    history: int = 0  # of a trellis codec: the bits of a code that later windows hold
    value_levels: tuple[int, ...] = ()
    outliers: bool = False


_HALF_ROT4 = (6, 18, 31, 44, 58, 75, 96, 127)
_HALF_ROT3 = (14, 45, 79, 127)
_HALF_ROT2 = (38, 127)
_HALF_NUQ = {  # keys, values
    4: ((6, 19, 33, 47, 62, 79, 98, 123), (6, 18, 31, 44, 59, 75, 95, 121)),
    3: ((13, 40, 71, 112), (12, 37, 66, 105)),
    2: ((25, 84), (23, 76)),
}


_TCQ4 = (
    -102, -29, -22, -69, -39, -14, -7, -52, 35, 1, 8, 45, 88, 26, 18, 59,
    6, 39, 53, 13, 29, 102, 72, 22, -26, -80, -61, -17, -9, -35, -46, -1,
    46, 9, 1, 36, 61, 18, 27, 80, -71, -22, -30, -124, -52, -6, -14, -40,
    -17, -60, -88, -27, -2, -45, -36, -9, 13, 52, 40, 6, 21, 68, 124, 30,
)
_TCQ3 = (
    -95, 35, 3, 19, 50, -69, 29, -18, 38, -116, 20, 3, -69, 48, 13, 29,
    -51, 62, -29, -13, 94, -41, -2, 13, 66, -52, -12, -29, -41, 114, -18, -2,
    18, 2, 39, -79, 11, 28, -61, 48, 3, 18, -84, 37, 28, 11, 50, -62,
    -13, -30, 67, -48, -22, -5, -36, 79, -30, -13, -49, 62, -5, -22, 83, -36,
)
_TCQ2 = (
    -81, 44, 8, -24, -40, 63, 23, -7, 21, -7, -41, 71, 7, -21, -63, 40,
    8, -19, -62, 42, 22, -6, -40, 67, -41, 54, 21, -9, -103, 42, 8, -24,
    40, -55, -20, 7, 66, -41, -7, 22, -10, 21, 81, -46, -23, 7, 40, -73,
    -23, 9, 42, -62, -6, 26, 103, -40, 63, -40, -8, 21, 39, -72, -22, 5,
)
_TCQ1 = (
    -31, 16, -19, 39, -44, 11, -13, 59, 45, -11, 15, -55, 32, -21, 19, -29,
    -24, 34, -31, 18, -11, 59, -40, 16, 15, -69, 68, -8, 8, -58, 34, -24,
    27, -54, 37, -18, 13, -55, 52, -12, -14, 65, -41, 13, -21, 24, -31, 19,
    33, -19, 19, -28, 48, -11, 16, -46, -40, 15, -10, 66, -71, 11, -20, 30,
)


def _mirrored(half: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-level for level in reversed(half)) + half


def _nonuniform(bits: int, outliers: bool) -> Codec:
    keys, values = (_mirrored(half) for half in _HALF_NUQ[bits])
    name = f"nuq{bits}s" if outliers else f"nuq{bits}"
    return Codec(name, "nonuniform", bits, keys, value_levels=values, outliers=outliers)


CODECS = {
    1: Codec("f32", "float", 32),
    2: Codec("bf16", "float", 16),
    8: Codec("int8", "uniform", 8),
    9: Codec("int4", "uniform", 4),
    10: Codec("int3", "uniform", 3),
    11: Codec("int2", "uniform", 2),
    16: Codec("rot4", "rotated", 4, _mirrored(_HALF_ROT4), float.fromhex("0x1.73cefap+5")),
    17: Codec("rot3", "rotated", 3, _mirrored(_HALF_ROT3), float.fromhex("0x1.d8218p+5")),
    18: Codec("rot2", "rotated", 2, _mirrored(_HALF_ROT2), float.fromhex("0x1.5054bp+6")),
    24: Codec("tcq4", "trellis", 4, _TCQ4, 40.0, history=4),
    25: Codec("tcq3", "trellis", 3, _TCQ3, 40.0, history=1),
    26: Codec("tcq2", "trellis", 2, _TCQ2, 40.0, history=2),
    27: Codec("tcq1", "trellis", 1, _TCQ1, 40.0, history=1),
    32: _nonuniform(4, False),
    33: _nonuniform(3, False),
    34: _nonuniform(2, False),
    36: _nonuniform(4, True),
    37: _nonuniform(3, True),
    38: _nonuniform(2, True),
}


def f32(x: float) -> float:
    """x rounded once to binary32; beyond its range an infinity."""
    return c_float(x).value


def f16_bytes(x: float) -> bytes:
    return struct.pack("<e", x)


def f16_from(data: bytes) -> float:
    return struct.unpack("<e", data)[0]


def bf16_bytes(x: float) -> bytes:
    """A finite x to bfloat16, nearest even, saturating at the largest finite one."""
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    rounded = bits + 0x7FFF + (bits >> 16 & 1) >> 16
    if rounded & 0x7FFF >= 0x7F80:
        rounded = rounded & 0x8000 | 0x7F7F
    return struct.pack("<H", rounded)


def bf16_from(data: bytes) -> float:
    return struct.unpack("<f", b"\0\0" + data)[0]


def rne(x: float) -> int:
    return round(x)  # Python's round of a float is exact, ties to even.


def clamp(x: Number, low: Number, high: Number) -> Number:
    return max(low, min(x, high))


def signed(value: int, bits: int) -> int:
    """The two's complement integer in the low bits of value."""
    value &= 2**bits - 1
    return value - 2**bits if value >> (bits - 1) else value


def floor_log2(x: float) -> int:
    return math.frexp(x)[1] - 1


_M = tuple(f32(2 ** (i / 16)) for i in range(16))
_H = tuple(f32(2 ** ((i + 0.5) / 16)) for i in range(16))


def step(n: int) -> float:
    exponent, i = divmod(n, 16)
    return 0.0 if exponent < -126 else _M[i] * 2.0 ** min(exponent, 127)


def mean_step_entry(i: int) -> float:
    """m[i] of the table of logarithmic steps."""
    return _M[i]


def scale_step_entry(i: int) -> float:
    """h[i] of the table of logarithmic steps."""
    return _H[i]


def ceil_step(s: float) -> int:
    k = floor_log2(s)
    z = s * 2.0**-k
    return 16 * k + sum(m < z for m in _M)


def round_step(s: float) -> int:
    k = floor_log2(s)
    z = s * 2.0**-k
    return 16 * k + sum(h <= z for h in _H)


def clamp_row(row: list[float], family: str) -> list[float]:
    """A row as whoever feeds a uniform or a non-uniform codec hands it in."""
    largest = float.fromhex("0x1.fep127") if family == "uniform" else 2.0**124
    return [clamp(v, -largest, largest) for v in row]


def rotate_row(row: list[float], diag: list[float] | None) -> list[float]:
    """H (diag x) of one row, as whoever feeds a rotated codec does it."""
    x = [clamp(v, -(2.0**96), 2.0**96) for v in row]
    if diag is not None:
        x = [f32(v * d) for v, d in zip(x, diag)]
    block = len(x) & -len(x)
    h = 1
    while h < block:
        for i in range(len(x)):
            if not i & h:
                a, b = x[i], x[i + h]
                x[i], x[i + h] = f32(a + b), f32(a - b)
        h *= 2
    norm = f32(1 / math.sqrt(block))
    return [f32(v * norm) for v in x]


def planes_of(bits: int) -> list[tuple[int, int]]:
    """(field bits, shift into the code) of each plane."""
    return [(2, 0), (1, 2)] if bits == 3 else [(bits, 0)]


def field_place(r: int, lane: int, lanes: int, width: int) -> tuple[int, int]:
    """(byte, bit) of element (r, lane) in a plane of width-bit fields."""
    quad, per_byte = r // 4, 8 // width
    return (quad // per_byte * lanes + lane) * 4 + r % 4, width * (quad % per_byte)


def by_reduction(rows: list[list], side: Side) -> list[list]:
    """[token][channel] as [r][lane], or back: keys reduce over channels, values over tokens."""
    return [list(column) for column in zip(*rows)] if side is Side.KEYS else rows


def pack_codes(codes: Codes, bits: int, side: Side) -> bytes:
    grid = by_reduction(codes, side)
    lanes = len(grid[0])
    out = b""
    for width, shift in planes_of(bits):
        plane = bytearray(len(grid) * lanes * width // 8)
        for r, row in enumerate(grid):
            for lane, code in enumerate(row):
                byte, bit = field_place(r, lane, lanes, width)
                plane[byte] |= (code >> shift & 2**width - 1) << bit
        out += plane
    return out


def unpack_codes(data: bytes, bits: int, side: Side, tokens: int, head_dim: int) -> Codes:
    size, lanes = (head_dim, tokens) if side is Side.KEYS else (tokens, head_dim)
    grid = [[0] * lanes for _ in range(size)]
    start = 0
    for width, shift in planes_of(bits):
        for r in range(size):
            for lane in range(lanes):
                byte, bit = field_place(r, lane, lanes, width)
                grid[r][lane] |= (data[start + byte] >> bit & 2**width - 1) << shift
        start += size * lanes * width // 8
    return by_reduction(grid, side)


@dataclass(frozen=True)
class Encoded:
    codes: bytes
    meta: bytes
    param: int  # an unsigned 32-bit word


def section_exponent(valid: Rows) -> int:
    largest = max((abs(v) for row in valid for v in row), default=0.0)
    return 0 if largest == 0 else clamp(floor_log2(largest), -100, 120)


def scaled(rows: Rows, exponent: int) -> Rows:
    factor = 2.0**exponent
    return [[f32(v * factor) for v in row] for row in rows]


def _float_grid(codec: Codec, rows: int, lanes: int) -> list[tuple[int, int]]:
    """The (r, lane) of every stored number in order: bf16 keeps pairs along r together."""
    pair = 2 if codec.bits == 16 else 1
    return [(r + i, lane) for r in range(0, rows, pair) for lane in range(lanes) for i in range(pair)]


def encode_float(codec: Codec, side: Side, x: Rows, first: int) -> Encoded:
    grid = by_reduction([[0.0] * len(row) for row in x[:first]] + x[first:], side)
    to_bytes = bf16_bytes if codec.bits == 16 else struct.Struct("<f").pack
    places = _float_grid(codec, len(grid), len(grid[0]))
    return Encoded(b"".join(to_bytes(grid[r][lane]) for r, lane in places), b"", 0)


def decode_float(codec: Codec, side: Side, encoded: Encoded, tokens: int, head_dim: int) -> Rows:
    size, lanes = (head_dim, tokens) if side is Side.KEYS else (tokens, head_dim)
    grid = [[0.0] * lanes for _ in range(size)]
    width = codec.bits // 8
    for i, (r, lane) in enumerate(_float_grid(codec, size, lanes)):
        number = encoded.codes[i * width : (i + 1) * width]
        grid[r][lane] = bf16_from(number) if width == 2 else struct.unpack("<f", number)[0]
    return by_reduction(grid, side)


def _centre(codec: Codec, side: Side) -> float:
    return (2**codec.bits - 1) * 0.5 if side is Side.KEYS else 2.0 ** (codec.bits - 1)


def stored_half(x: float) -> float:
    """f16(x) back as f32, a zero without its sign."""
    return f16_from(f16_bytes(x)) + 0.0


def uniform_group(codec: Codec, side: Side, group: list[float]) -> tuple[float, float]:
    """(scale, mid) as stored, from the valid x' of one group."""
    if not group:
        return 0.0, 0.0
    low, high = min(group), max(group)
    scale = stored_half(f32(f32(high - low) / (2**codec.bits - 1)))
    if side is Side.KEYS:
        return scale, stored_half(f32(f32(low + high) * 0.5))
    return scale, stored_half(f32(low + f32(scale * _centre(codec, side))))


def uniform_code(codec: Codec, side: Side, x: float, scale: float, mid: float) -> int:
    inverse = f32(1 / scale) if scale else 0.0
    centred = f32(f32(f32(x - mid) * inverse) + _centre(codec, side))
    return clamp(rne(centred), 0, 2**codec.bits - 1)


def encode_uniform(codec: Codec, side: Side, x: Rows, first: int) -> Encoded:
    exponent = section_exponent(x[first:])
    valid = scaled(x[first:], -exponent)
    if side is Side.KEYS:
        columns = list(zip(*valid)) if valid else [()] * len(x[0])
        groups = [uniform_group(codec, side, list(column)) for column in columns]
        codes = [[uniform_code(codec, side, v, *group) for v, group in zip(row, groups)] for row in valid]
    else:
        groups = [(0.0, 0.0)] * first + [uniform_group(codec, side, row) for row in valid]
        codes = [[uniform_code(codec, side, v, *group) for v in row] for row, group in zip(valid, groups[first:])]
    codes = [[0] * len(x[0]) for _ in range(first)] + codes
    meta = b"".join(f16_bytes(scale) for scale, _ in groups) + b"".join(f16_bytes(mid) for _, mid in groups)
    return Encoded(pack_codes(codes, codec.bits, side), meta, exponent % 2**32)


def decode_uniform(codec: Codec, side: Side, encoded: Encoded, tokens: int, head_dim: int) -> Rows:
    codes = unpack_codes(encoded.codes, codec.bits, side, tokens, head_dim)
    halves = struct.unpack(f"<{len(encoded.meta) // 2}e", encoded.meta)
    scales, mids = halves[: len(halves) // 2], halves[len(halves) // 2 :]
    centre, factor = _centre(codec, side), 2.0 ** clamp(signed(encoded.param, 32), -126, 127)

    def value(t: int, c: int) -> float:
        group = c if side is Side.KEYS else t
        return f32(f32(f32((codes[t][c] - centre) * scales[group]) + mids[group]) * factor)

    return [[value(t, c) for c in range(head_dim)] for t in range(tokens)]


def sum16(v: list[float]) -> float:
    p = v[:16]
    for start in range(16, len(v), 16):
        p = [f32(a + b) for a, b in zip(p, v[start : start + 16])]
    for half in (8, 4, 2):
        p = [f32(p[i] + p[i + half]) for i in range(half)]
    return f32(p[0] + p[1])


def quantise(codec: Codec, residual: list[float], inverse: float) -> list[int]:
    thresholds = [(a + b) / 2 for a, b in zip(codec.levels, codec.levels[1:])]
    return [bisect_left(thresholds, f32(r * inverse)) for r in residual]


def mean_codes(valid: Rows, head_dim: int) -> tuple[int, list[int]]:
    """(M, mean_code[D]) of the valid rows of x'."""
    means = []
    for column in zip(*valid):
        total = column[0]
        for v in column[1:]:
            total = f32(total + v)
        means.append(f32(total * f32(1 / len(valid))))
    largest = max((abs(mean) for mean in means), default=0.0)
    if largest < 2.0**-60:
        return 0, [0] * head_dim
    m = ceil_step(f32(largest / 127))
    return m, [clamp(rne(f32(mean / step(m))), -127, 127) for mean in means]


def code_token(codec: Codec, residual: list[float]) -> tuple[list[int], int] | None:
    """The token's codes and step, None where its residual is too small for them."""
    q = sum16([f32(r * r) for r in residual])
    s0 = f32(f32(math.sqrt(f32(q * f32(1 / len(residual))))) / codec.unit)
    if s0 < 2.0**-60:
        return None
    codes = quantise(codec, residual, f32(1 / s0))
    levels = [codec.levels[i] for i in codes]
    a = sum16([f32(r * level) for r, level in zip(residual, levels)])
    b = sum(level * level for level in levels)
    return codes, round_step(min(f32(q / a), f32(2 * f32(a / b))))


def encode_rotated(codec: Codec, side: Side, x: Rows, first: int) -> Encoded:
    exponent = section_exponent(x[first:])
    valid = scaled(x[first:], -exponent)
    m, mean_code = mean_codes(valid, len(x[0]))
    mean = [f32(code * step(m)) for code in mean_code]
    residuals = [[f32(v - offset) for v, offset in zip(row, mean)] for row in valid]
    tokens = [code_token(codec, residual) for residual in residuals]
    largest = max((token[1] for token in tokens if token), default=0)

    scale_codes = [0] * len(x)
    codes = [[0] * len(x[0]) for _ in x]
    for t, token in enumerate(tokens, first):
        if token and token[1] - largest + 255 > 0:
            codes[t], scale_codes[t] = token[0], token[1] - largest + 255
    meta = bytes(scale_codes) + struct.pack(f"<{len(mean_code)}b", *mean_code)
    param = (largest + 16 * exponent) % 2**16 + (m + 16 * exponent) % 2**16 * 2**16
    return Encoded(pack_codes(codes, codec.bits, side), meta, param)


def decode_rotated(codec: Codec, side: Side, encoded: Encoded, tokens: int, head_dim: int) -> Rows:
    codes = unpack_codes(encoded.codes, codec.bits, side, tokens, head_dim)
    largest, m = signed(encoded.param, 16), signed(encoded.param >> 16, 16)
    scales = [step(largest + code - 255) if code else 0.0 for code in encoded.meta[:tokens]]
    mean = [f32(code * step(m)) for code in struct.unpack(f"<{head_dim}b", encoded.meta[tokens:])]
    return [
        [f32(f32(codec.levels[code] * scale) + offset) for code, offset in zip(row, mean)]
        for row, scale in zip(codes, scales)
    ]
