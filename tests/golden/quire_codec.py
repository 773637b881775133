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


def _stored_half(x: float) -> float:
    """f16(x) back as f32, a zero without its sign."""
    return f16_from(f16_bytes(x)) + 0.0


def uniform_group(codec: Codec, side: Side, group: list[float]) -> tuple[float, float]:
    """(scale, mid) as stored, from the valid x' of one group."""
    if not group:
        return 0.0, 0.0
    low, high = min(group), max(group)
    scale = _stored_half(f32(f32(high - low) / (2**codec.bits - 1)))
    if side is Side.KEYS:
        return scale, _stored_half(f32(f32(low + high) * 0.5))
    return scale, _stored_half(f32(low + f32(scale * _centre(codec, side))))


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


def chains_of(side: Side, tokens: int, head_dim: int) -> list[list[tuple[int, int]]]:
    """The (token, channel) of every element of every chain, in the chain's order."""
    size, lanes = (head_dim, tokens) if side is Side.KEYS else (tokens, head_dim)
    order = [r for phase in range(4) for r in range(phase, size, 4)]
    return [[(lane, r) if side is Side.KEYS else (r, lane) for r in order] for lane in range(lanes)]


def window_bits(codec: Codec) -> int:
    return 6 - (codec.bits - codec.history)


def read_chain(codec: Codec, codes: list[int]) -> list[int]:
    """The levels of the codes of one chain."""
    rest_bits, w = codec.bits - codec.history, window_bits(codec)
    window, levels = 0, []
    for code in codes + codes:  # once around the ring to have the window before the first
        window = (window >> codec.history) + (code >> rest_bits << w - codec.history)
        levels.append(codec.levels[window + ((code & 2**rest_bits - 1) << w)])
    return levels[len(codes) :]


class Viterbi:
    """The cheapest ways through a trellis from the states that `sums` leaves open."""

    def __init__(self, codec: Codec, sums: list[float]):
        self.codec, self.sums, self.w = codec, sums, window_bits(codec)
        h = codec.history
        self.ways = [
            [((state << h) + n % 2**h, n >> h) for n in range(2**codec.bits)]  # window and rest of way n
            for state in range(len(sums))
        ]
        self.taken: list[list[tuple[int, int]]] = []

    def advance(self, y: int) -> None:
        new_sums, new_taken = [], []
        for ways in self.ways:
            best = (math.inf, 0, 0)
            for window, rest in ways:
                level = self.codec.levels[window + (rest << self.w)]
                cost = self.sums[window % len(self.sums)] + level * level - 2 * level * y
                if cost < best[0]:
                    best = (cost, window, rest)
            new_sums.append(best[0])
            new_taken.append(best[1:])
        self.sums = new_sums
        self.taken.append(new_taken)

    def back(self, state: int, elements: int) -> tuple[int, list[int]]:
        """The state that many elements before the end of the path that ends in `state`, and their codes."""
        codes = []
        for taken in reversed(self.taken[len(self.taken) - elements :]):
            window, rest = taken[state]
            codes.append((window >> self.w - self.codec.history << self.codec.bits - self.codec.history) + rest)
            state = window % len(self.sums)
        return state, codes[::-1]


def write_chain(codec: Codec, targets: list[int]) -> list[int]:
    """The codes of one chain."""
    states = 2 ** (window_bits(codec) - codec.history)
    around = Viterbi(codec, [0] * states)
    for y in targets[-8:] + targets[:8]:
        around.advance(y)
    seam, _ = around.back(around.sums.index(min(around.sums)), 8)
    whole = Viterbi(codec, [0 if state == seam else math.inf for state in range(states)])
    for y in targets:
        whole.advance(y)
    return whole.back(seam, len(targets))[1]


def place_of(x: float, m: int) -> int:
    """The place of a positive float with m mantissa bits, ties upwards."""
    k = floor_log2(x)
    return 2**m * k + math.floor((x * 2.0**-k - 1) * 2**m + 0.5)


def short(n: int, m: int) -> float:
    return (1 + n % 2**m / 2**m) * 2.0 ** (n >> m)


def scale_codes(scales: list[float | None]) -> tuple[int, int, list[int]]:
    """(m, P, the codes) of the tokens' scales, None for tokens without one."""
    some = [s for s in scales if s is not None]
    if not some:
        return 4, 0, [0] * len(scales)
    m = next((m for m in (7, 6, 5) if place_of(max(some), m) - place_of(min(some), m) <= 254), 4)
    largest = place_of(max(some), m)
    return m, largest, [0 if s is None else max(place_of(s, m) - largest + 255, 0) for s in scales]


def encode_trellis(codec: Codec, side: Side, x: Rows, first: int) -> Encoded:
    tokens, head_dim = len(x), len(x[0])
    if first == tokens:
        return Encoded(bytes(tokens * head_dim * codec.bits // 8), bytes(tokens + head_dim), 0)
    exponent = section_exponent(x[first:])
    valid = scaled(x[first:], -exponent)
    mean_step_number, mean_code = mean_codes(valid, head_dim)
    mean = [f32(code * step(mean_step_number)) for code in mean_code]
    residuals = [[f32(v - offset) for v, offset in zip(row, mean)] for row in valid]

    targets = [[0] * head_dim for _ in range(tokens)]
    energies = [sum16([f32(r * r) for r in residual]) for residual in residuals]
    target_scales = [f32(f32(math.sqrt(f32(q * f32(1 / head_dim)))) / codec.unit) for q in energies]
    for t, (residual, s0) in enumerate(zip(residuals, target_scales), first):
        if s0 >= 2.0**-60:
            inverse = f32(1 / s0)
            targets[t] = [clamp(rne(f32(r * inverse)), -127, 127) for r in residual]

    codes, levels = [[[0] * head_dim for _ in range(tokens)] for _ in range(2)]
    for chain in chains_of(side, tokens, head_dim):
        chain_codes = write_chain(codec, [targets[t][c] for t, c in chain])
        for (t, c), code, level in zip(chain, chain_codes, read_chain(codec, chain_codes)):
            codes[t][c], levels[t][c] = code, level

    scales: list[float | None] = [None] * tokens
    for t, (residual, q, s0) in enumerate(zip(residuals, energies, target_scales), first):
        if s0 >= 2.0**-60:
            p = sum16([f32(r * level) for r, level in zip(residual, levels[t])])
            scales[t] = f32(q / p) if q < f32(f32(s0 * p) * 16) else None
    m, largest, codes_of_scales = scale_codes(scales)
    meta = bytes(codes_of_scales) + struct.pack(f"<{head_dim}b", *mean_code)
    low = (2 ** (7 - m) * largest + 128 * exponent) % 2**16
    param = low + (mean_step_number + 16 * exponent) % 2**14 * 2**16 + (m - 4) * 2**30
    return Encoded(pack_codes(codes, codec.bits, side), meta, param)


def decode_trellis(codec: Codec, side: Side, encoded: Encoded, tokens: int, head_dim: int) -> Rows:
    codes = unpack_codes(encoded.codes, codec.bits, side, tokens, head_dim)
    levels = [[0] * head_dim for _ in range(tokens)]
    for chain in chains_of(side, tokens, head_dim):
        for (t, c), level in zip(chain, read_chain(codec, [codes[t][c] for t, c in chain])):
            levels[t][c] = level
    largest, mean_at, m = signed(encoded.param, 16), signed(encoded.param >> 16, 14), 4 + (encoded.param >> 30)
    factor, start = step(16 * (largest >> 7)), largest % 128 >> 7 - m
    scales = [f32(short(start + code - 255, m) * factor) if code else 0.0 for code in encoded.meta[:tokens]]
    mean = [f32(code * step(mean_at)) for code in struct.unpack(f"<{head_dim}b", encoded.meta[tokens:])]
    return [
        [f32(f32(level * scale) + offset) for level, offset in zip(row, mean)] for row, scale in zip(levels, scales)
    ]


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
    fitted = _stored_half(clamp(wanted, scale * 0.5, scale * 2))
    return fitted, _stored_half(f32(mid + f32(f32(offset - f32(fitted * 2.0**-7 * level_sum)) / n)))


def nonuniform_group(codec: Codec, side: Side, table: tuple[int, ...], x: list[float], kept: list[bool]):
    """(codes, scale, mid) of one group; `kept` is False for outliers."""
    inside = [v for v, keep in zip(x, kept) if keep] or x
    low, high = min(inside), max(inside)
    scale = _stored_half(f32(f32(high - low) * float.fromhex("0x1.020408p-1")))
    mid = _stored_half(f32(f32(low + high) * 0.5))
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


_ENCODERS = {"float": encode_float, "uniform": encode_uniform, "rotated": encode_rotated, "trellis": encode_trellis}
_DECODERS = {"float": decode_float, "uniform": decode_uniform, "rotated": decode_rotated, "trellis": decode_trellis}


def encode(codec: Codec, side: Side, x: Rows, first: int, levels: Levels = None) -> Encoded:
    """One side of a section; the rows before `first` are sinks and are left out. levels: the layer's own."""
    if codec.family == "nonuniform":
        return encode_nonuniform(codec, side, x, first, levels)
    return _ENCODERS[codec.family](codec, side, x, first)


def decode(codec: Codec, side: Side, encoded: Encoded, tokens: int, head_dim: int, levels: Levels = None) -> Rows:
    """The values of one side; those of sink rows mean nothing."""
    if codec.family == "nonuniform":
        return decode_nonuniform(codec, side, encoded, tokens, head_dim, levels)
    return _DECODERS[codec.family](codec, side, encoded, tokens, head_dim)
