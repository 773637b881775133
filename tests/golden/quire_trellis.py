"""The trellis codecs of FORMATS.md, a second time; quire_codec.py says how."""

import math
import struct

from quire_codec import (
    Codec,
    Encoded,
    Rows,
    Side,
    clamp,
    f32,
    floor_log2,
    mean_codes,
    pack_codes,
    rne,
    scaled,
    section_exponent,
    signed,
    step,
    sum16,
    unpack_codes,
)


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
