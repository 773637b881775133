"""XXH3_64 with a seed, for the checksums of a page.

Written from the hash's public specification (xxHash, doc/xxhash_spec.md). Pages and what the goldens say of them
hash nothing of 1 to 16 bytes, so the special forms for those are left out.
"""

import struct

_P32_1, _P32_2, _P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
_P64_1, _P64_2 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F
_P64_3, _P64_4, _P64_5 = 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_MIX = 0x165667919E3779F9
_MASK32, _MASK64 = 2**32 - 1, 2**64 - 1

_STRIPE = 64
_BLOCK_STRIPES = 16
_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def xxh3_64(data: bytes, seed: int = 0) -> int:
    """The 64-bit hash of nothing or of at least 17 bytes; the seed is any unsigned 64-bit integer."""
    if not data:
        return _hash_nothing(seed)
    if len(data) < 17:
        raise ValueError(f"xxh3_64 here does not take {len(data)} bytes; pages hash nothing of 1 to 16")
    if len(data) <= 128:
        return _hash_to_128(data, seed)
    if len(data) <= 240:
        return _hash_to_240(data, seed)
    return _hash_long(data, seed)


def _avalanche(h: int) -> int:
    h ^= h >> 37
    h = h * _MIX & _MASK64
    return h ^ h >> 32


def _hash_nothing(seed: int) -> int:
    low, high = struct.unpack_from("<QQ", _SECRET, 56)
    h = seed ^ low ^ high
    h = (h ^ h >> 33) * _P64_2 & _MASK64
    h = (h ^ h >> 29) * _P64_3 & _MASK64
    return h ^ h >> 32


def _fold(a: int, b: int) -> int:
    """The 128-bit product of two words, its halves folded together."""
    product = a * b
    return product & _MASK64 ^ product >> 64


def _mix16(data: bytes, at: int, secret_at: int, seed: int) -> int:
    low, high = struct.unpack_from("<QQ", data, at)
    secret_low, secret_high = struct.unpack_from("<QQ", _SECRET, secret_at)
    return _fold(low ^ secret_low + seed & _MASK64, high ^ secret_high - seed & _MASK64)


def _hash_to_128(data: bytes, seed: int) -> int:
    """Messages of 17 to 128 bytes: pairs of chunks from both ends inwards."""
    total = len(data) * _P64_1
    for pair in range((len(data) - 1) // 32 + 1):
        total += _mix16(data, 16 * pair, 32 * pair, seed)
        total += _mix16(data, len(data) - 16 * (pair + 1), 32 * pair + 16, seed)
    return _avalanche(total & _MASK64)


def _hash_to_240(data: bytes, seed: int) -> int:
    """Messages of 129 to 240 bytes: chunks in order, then the last sixteen bytes."""
    total = len(data) * _P64_1
    for chunk in range(8):
        total += _mix16(data, 16 * chunk, 16 * chunk, seed)
    total = _avalanche(total & _MASK64)
    for chunk in range(8, len(data) // 16):
        total += _mix16(data, 16 * chunk, 16 * (chunk - 8) + 3, seed)
    total += _mix16(data, len(data) - 16, 136 - 17, seed)
    return _avalanche(total & _MASK64)


def _seeded_secret(seed: int) -> bytes:
    words = struct.unpack("<24Q", _SECRET)
    return struct.pack("<24Q", *((w - seed if i % 2 else w + seed) & _MASK64 for i, w in enumerate(words)))


def _accumulate(lanes: list[int], data: bytes, at: int, secret: bytes, secret_at: int) -> None:
    """Mixes one stripe of 64 bytes into the eight lanes."""
    values = struct.unpack_from("<8Q", data, at)
    keys = struct.unpack_from("<8Q", secret, secret_at)
    for i, (value, key) in enumerate(zip(values, keys)):
        keyed = value ^ key
        lanes[i ^ 1] = lanes[i ^ 1] + value & _MASK64
        lanes[i] = lanes[i] + (keyed & _MASK32) * (keyed >> 32) & _MASK64


def _scramble(lanes: list[int], secret: bytes) -> None:
    keys = struct.unpack_from("<8Q", secret, len(secret) - _STRIPE)
    for i, key in enumerate(keys):
        lanes[i] = (lanes[i] ^ lanes[i] >> 47 ^ key) * _P32_1 & _MASK64


def _hash_long(data: bytes, seed: int) -> int:
    """Messages above 240 bytes: stripes in blocks of sixteen, each block scrambled."""
    secret = _seeded_secret(seed)
    lanes = [_P32_3, _P64_1, _P64_2, _P64_3, _P64_4, _P32_2, _P64_5, _P32_1]
    for stripe in range((len(data) - 1) // _STRIPE):
        in_block = stripe % _BLOCK_STRIPES
        _accumulate(lanes, data, _STRIPE * stripe, secret, 8 * in_block)
        if in_block == _BLOCK_STRIPES - 1:
            _scramble(lanes, secret)
    _accumulate(lanes, data, len(data) - _STRIPE, secret, len(secret) - _STRIPE - 7)

    total = len(data) * _P64_1
    for i in range(4):
        low, high = struct.unpack_from("<QQ", secret, 11 + 16 * i)
        total += _fold(lanes[2 * i] ^ low, lanes[2 * i + 1] ^ high)
    return _avalanche(total & _MASK64)
