"""A second writer and reader of Quire pages, written from quant/FORMATS.md alone.

Header, sections and checksums; what the codecs do is in quire_codec.py. A page that `read_page` returns has passed
every check the document asks for. No state, so safe to call from several threads.
"""

import struct
from dataclasses import dataclass

from quire_codec import CODECS, Codec, Encoded, Levels, Rows, Side, bf16_bytes, bf16_from
from quire_families import decode, encode
from xxh3 import xxh3_64


class PageError(ValueError):
    """Bytes that are no page; the text says in one sentence what is wrong."""


@dataclass(frozen=True)
class Header:
    """The page header's fields, less the checksums and params that follow from the sections."""

    key_codec: int
    value_codec: int
    page_tokens: int
    token_count: int
    head_dim: int
    kv_heads: int
    sink_tokens: int = 0
    flags: int = 0
    rope_epoch: int = 0
    layer_params_hash: int = 0


@dataclass(frozen=True)
class Section:
    """The values of one kv head, in their codec's space. Rows [T][D]; sinks [n][D], what a page keeps of them."""

    keys: Rows
    values: Rows
    sink_keys: Rows
    sink_values: Rows


Params = tuple[int, int]  # of keys and of values
OwnLevels = tuple[Levels, Levels]  # a layer's own tables of keys and of values
_DEFAULT_LEVELS: OwnLevels = (None, None)

_HEADER = struct.Struct("<3s7B3H2IQ")
_ENTRY = struct.Struct("<Q2I")
_CHECKSUM_AT = 20


def align64(size: int) -> int:
    return (size + 63) // 64 * 64


def header_bytes(kv_heads: int) -> int:
    return align64(_HEADER.size + _ENTRY.size * kv_heads)


def meta_size(codec: Codec, groups: int, lanes: int) -> int:
    """Bytes of one side's meta: groups share scale and midpoint, and each lane may have an outlier."""
    match codec.family:
        case "uniform":
            return 4 * groups
        case "rotated" | "trellis":
            return groups + lanes
        case "nonuniform":
            return 4 * groups + (2 * lanes if codec.outliers else 0)
    return 0


def array_sizes(header: Header) -> list[int]:
    """Bytes of key codes, value codes, key meta, value meta, sink keys and sink values."""
    t, d = header.page_tokens, header.head_dim
    key_codec, value_codec = CODECS[header.key_codec], CODECS[header.value_codec]
    sinks = 2 * header.sink_tokens * d
    return [
        t * d * key_codec.bits // 8,
        t * d * value_codec.bits // 8,
        meta_size(key_codec, d, t),
        meta_size(value_codec, t, d),
        sinks,
        sinks,
    ]


def section_checksum(section: bytes, key_param: int, value_param: int) -> int:
    return xxh3_64(section, key_param + value_param * 2**32)


def header_checksum(header: bytes) -> int:
    zeroed = header[:_CHECKSUM_AT] + bytes(4) + header[_CHECKSUM_AT + 4 :]
    return xxh3_64(zeroed) % 2**32


def write_section(
    header: Header, keys: Rows, values: Rows, foreign: Params | None, levels: OwnLevels
) -> tuple[bytes, bytes]:
    """(header entry, section) of one kv head; keys and values [T][D] in their codec's space.

    foreign: params to write instead of the codecs' own, as no writer does.
    """
    n = header.sink_tokens
    key_codec, value_codec = CODECS[header.key_codec], CODECS[header.value_codec]
    k = encode(key_codec, Side.KEYS, keys, n, levels[0])
    v = encode(value_codec, Side.VALUES, values, n, levels[1])
    sinks = b"".join(bf16_bytes(x) for rows in (keys, values) for row in rows[:n] for x in row)
    section = k.codes + v.codes + k.meta + v.meta + sinks
    section += bytes(align64(len(section)) - len(section))
    key_param, value_param = foreign or (k.param, v.param)
    return _ENTRY.pack(section_checksum(section, key_param, value_param), key_param, value_param), section


def write_page(
    header: Header,
    keys: list[Rows],
    values: list[Rows],
    foreign: Params | None = None,
    levels: OwnLevels = _DEFAULT_LEVELS,
) -> bytes:
    """The page of keys and values [H][T][D], each in its codec's space; foreign as in write_section."""
    sections = [write_section(header, k, v, foreign, levels) for k, v in zip(keys, values, strict=True)]
    h = header
    small = (h.key_codec, h.value_codec, h.flags, h.sink_tokens, h.page_tokens, h.token_count)
    wide = (h.head_dim, h.kv_heads, 0, h.rope_epoch, 0, h.layer_params_hash)
    head = _HEADER.pack(b"QRP", 1, *small, *wide) + b"".join(entry for entry, _ in sections)
    head += bytes(header_bytes(h.kv_heads) - len(head))
    checksum = struct.pack("<I", header_checksum(head))
    head = head[:_CHECKSUM_AT] + checksum + head[_CHECKSUM_AT + 4 :]
    return head + b"".join(section for _, section in sections)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise PageError(problem)


def _check_geometry(h: Header, zero: int) -> None:
    _require(h.flags <= 1, f"flags are {h.flags}, but only bit 0 is defined")
    _require(zero == 0, f"the reserved field is {zero}, but must be 0")
    _require(h.page_tokens in (32, 64, 128), f"page_tokens is {h.page_tokens}, but must be 32, 64 or 128")
    _require(h.sink_tokens <= min(32, h.page_tokens), f"sink_tokens is {h.sink_tokens}, but may be 32 at most")
    _require(1 <= h.token_count <= h.page_tokens, f"token_count is {h.token_count}, but must be 1 to page_tokens")
    _require(h.head_dim in range(32, 257, 32), f"head_dim is {h.head_dim}, but must be 32 to 256 in steps of 32")
    _require(h.kv_heads >= 1, "kv_heads is 0, but must be at least 1")


def read_header(page: bytes) -> Header:
    """The checked header at the front of page; raises PageError in the document's order of checks."""
    _require(len(page) >= _HEADER.size, f"a page of {len(page)} bytes is shorter than its header")
    fields = _HEADER.unpack_from(page)
    magic, version, key_codec, value_codec, flags, sinks, tokens, count = fields[:8]
    head_dim, heads, zero, epoch, checksum, params_hash = fields[8:]
    _require(magic == b"QRP", f"the magic is {magic!r}, but must be QRP")
    _require(version == 1, f"the version is {version}, but this reader knows 1")
    size = header_bytes(heads)
    _require(len(page) >= size, f"a page of {len(page)} bytes is shorter than its header of {size}")
    _require(header_checksum(page[:size]) == checksum, "the header does not match its checksum")
    for codec in (key_codec, value_codec):
        _require(codec in CODECS, f"{codec} is no codec id")
    header = Header(key_codec, value_codec, tokens, count, head_dim, heads, sinks, flags, epoch, params_hash)
    _check_geometry(header, zero)
    return header


def decode_section(header: Header, section: bytes, params: Params, levels: OwnLevels) -> Section:
    """The values of one section whose checksum holds."""
    parts, at = [], 0
    for size in array_sizes(header):
        parts.append(section[at : at + size])
        at += size
    key_codes, value_codes, key_meta, value_meta, sink_keys, sink_values = parts
    key_codec, value_codec = CODECS[header.key_codec], CODECS[header.value_codec]
    shape = header.page_tokens, header.head_dim
    keys = Encoded(key_codes, key_meta, params[0])
    values = Encoded(value_codes, value_meta, params[1])
    return Section(
        decode(key_codec, Side.KEYS, keys, *shape, levels[0]),
        decode(value_codec, Side.VALUES, values, *shape, levels[1]),
        sink_rows(sink_keys, header.head_dim),
        sink_rows(sink_values, header.head_dim),
    )


def sink_rows(data: bytes, head_dim: int) -> Rows:
    numbers = [bf16_from(data[at : at + 2]) for at in range(0, len(data), 2)]
    return [numbers[at : at + head_dim] for at in range(0, len(numbers), head_dim)]


def read_page(page: bytes, levels: OwnLevels = _DEFAULT_LEVELS) -> tuple[Header, list[Section]]:
    """The header and the decoded sections of a page; raises PageError where anything does not verify."""
    header = read_header(page)
    at, size = header_bytes(header.kv_heads), align64(sum(array_sizes(header)))
    expected = at + size * header.kv_heads
    _require(len(page) >= expected, f"the page has {len(page)} bytes, but its header calls for {expected}")
    sections = []
    for head in range(header.kv_heads):
        checksum, key_param, value_param = _ENTRY.unpack_from(page, _HEADER.size + _ENTRY.size * head)
        section = page[at + size * head : at + size * (head + 1)]
        intact = section_checksum(section, key_param, value_param) == checksum
        _require(intact, f"section {head} does not match its checksum")
        sections.append(decode_section(header, section, (key_param, value_param), levels))
    return header, sections
