// Codes as bytes [tokens][dim] to and from the dot-quad layout. Thread safety: pure functions.
#pragma once

#include <cstring>

#include "quant/bytes.h"
#include "quant/codec.h"
#include "quant/cpu/lanes-inl.h"
#include "quant/dot_quad.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline constexpr uint32_t kMaxTokens = 128;
inline constexpr uint32_t kMaxDim = 256;
inline constexpr uint32_t kMaxCodes = kMaxTokens * kMaxDim;  // of one side of one section

// One plane of kWidth-bit fields taken from bits kFrom.. of the codes: four codes are handled as one dword.
template <uint32_t kWidth, uint32_t kFrom>
struct Plane {
  static constexpr uint32_t kQuads = 8 / kWidth;  // that share a dword
  static constexpr uint32_t kFieldMask = ((1U << kWidth) - 1) * 0x01010101U;

  // Keys: lane = token, the quad runs along the channels of a token.
  static void pack_keys(const uint8_t* codes, SectionShape shape, uint8_t* out) {
    for (uint32_t t = 0; t < shape.tokens; ++t) {
      const uint8_t* row = codes + size_t{t} * shape.dim;
      for (uint32_t j = 0; j < shape.dim / 4 / kQuads; ++j) {
        uint32_t word = 0;
        for (uint32_t f = 0; f < kQuads; ++f) {
          word |= (load_le<uint32_t>(row + size_t{4} * (j * kQuads + f)) >> kFrom & kFieldMask)
                  << (f * kWidth);
        }
        store_le(out + (size_t{j} * shape.tokens + t) * 4, word);
      }
    }
  }
  static void unpack_keys(const uint8_t* in, SectionShape shape, uint8_t* codes) {
    for (uint32_t t = 0; t < shape.tokens; ++t) {
      uint8_t* row = codes + size_t{t} * shape.dim;
      for (uint32_t j = 0; j < shape.dim / 4 / kQuads; ++j) {
        const uint32_t word = load_le<uint32_t>(in + (size_t{j} * shape.tokens + t) * 4);
        for (uint32_t f = 0; f < kQuads; ++f) {
          uint8_t* at = row + size_t{4} * (j * kQuads + f);
          store_le(at, load_le<uint32_t>(at) | (word >> (f * kWidth) & kFieldMask) << kFrom);
        }
      }
    }
  }

  // Values: lane = channel, the quad is four tokens.
  static void pack_values(const uint8_t* codes, SectionShape shape, uint8_t* out) {
    for (uint32_t j = 0; j < shape.tokens / 4 / kQuads; ++j) {
      for (uint32_t c = 0; c < shape.dim; c += kLanes) {
        Ints word = splat(0);
        for (uint32_t f = 0; f < kQuads; ++f) {
          const uint8_t* quad = codes + size_t{4} * (j * kQuads + f) * shape.dim + c;
          for (uint32_t i = 0; i < 4; ++i) {
            const Ints code = load_u8(quad + size_t{i} * shape.dim);
            const Ints field = shift_right(code, kFrom) & splat((1 << kWidth) - 1);
            word = word | shift_left(field, static_cast<int>(8 * i + f * kWidth));
          }
        }
        store(word, reinterpret_cast<int32_t*>(out + (size_t{j} * shape.dim + c) * 4));
      }
    }
  }
  static void unpack_values(const uint8_t* in, SectionShape shape, uint8_t* codes) {
    for (uint32_t j = 0; j < shape.tokens / 4 / kQuads; ++j) {
      for (uint32_t c = 0; c < shape.dim; c += kLanes) {
        const Ints word = load(reinterpret_cast<const int32_t*>(in + (size_t{j} * shape.dim + c) * 4));
        for (uint32_t f = 0; f < kQuads; ++f) {
          uint8_t* quad = codes + size_t{4} * (j * kQuads + f) * shape.dim + c;
          for (uint32_t i = 0; i < 4; ++i) {
            uint8_t* at = quad + size_t{i} * shape.dim;
            const Ints field =
                shift_right(word, static_cast<int>(8 * i + f * kWidth)) & splat((1 << kWidth) - 1);
            store_low_bytes(load_u8(at) | shift_left(field, static_cast<int>(kFrom)), at);
          }
        }
      }
    }
  }

  static void pack(Side side, const uint8_t* codes, SectionShape shape, uint8_t* out) {
    side == Side::kKey ? pack_keys(codes, shape, out) : pack_values(codes, shape, out);
  }
  static void unpack(Side side, const uint8_t* in, SectionShape shape, uint8_t* codes) {
    side == Side::kKey ? unpack_keys(in, shape, codes) : unpack_values(in, shape, codes);
  }
};

inline void pack_codes(Side side, uint32_t bits, SectionShape shape, const uint8_t* codes, uint8_t* out) {
  switch (bits) {
    case 8:
      return Plane<8, 0>::pack(side, codes, shape, out);
    case 4:
      return Plane<4, 0>::pack(side, codes, shape, out);
    case 3:
      Plane<1, 2>::pack(side, codes, shape, out + high_plane_offset(shape));
      [[fallthrough]];
    default:
      return Plane<2, 0>::pack(side, codes, shape, out);
  }
}

inline void unpack_codes(Side side, uint32_t bits, SectionShape shape, const uint8_t* in, uint8_t* codes) {
  std::memset(codes, 0, size_t{shape.tokens} * shape.dim);
  switch (bits) {
    case 8:
      return Plane<8, 0>::unpack(side, in, shape, codes);
    case 4:
      return Plane<4, 0>::unpack(side, in, shape, codes);
    case 1:
      return Plane<1, 0>::unpack(side, in, shape, codes);
    case 3:
      Plane<1, 2>::unpack(side, in + high_plane_offset(shape), shape, codes);
      [[fallthrough]];
    default:
      return Plane<2, 0>::unpack(side, in, shape, codes);
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
