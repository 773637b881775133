"""One side of a section through whichever family its codec is of."""

from quire_codec import (
    Codec,
    Encoded,
    Levels,
    Rows,
    Side,
    decode_float,
    decode_rotated,
    decode_uniform,
    encode_float,
    encode_rotated,
    encode_uniform,
)
from quire_nonuniform import decode_nonuniform, encode_nonuniform
from quire_trellis import decode_trellis, encode_trellis


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
