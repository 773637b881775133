// int8, int4, int3, int2: evenly spaced levels around a midpoint; a group of values that share scale and
// midpoint is a channel of keys or a token of values.
#include <algorithm>
#include <cmath>

#include "quant/bytes.h"
#include "quant/dot_quad.h"
#include "quant/half.h"
#include "quant/reference/codecs.h"
#include "quant/section_exponent.h"
#include "quant/steps.h"

namespace quire::reference {
namespace {

struct Range {
  float low;
  float high;
};

// What codes of `bits` mean on one side.
struct Grid {
  float last;    // the largest code
  float centre;  // the code of the midpoint
};

Grid grid_of(uint32_t bits, Side side) {
  const auto last = static_cast<float>((1U << bits) - 1);
  return {last, side == Side::kKey ? last * 0.5F : static_cast<float>(1U << (bits - 1))};
}

struct GroupScale {
  uint16_t scale;  // f16
  uint16_t mid;    // f16
};

// -0 would make the bytes depend on the order in which a range was searched.
uint16_t to_f16_unsigned_zero(float value) {
  const uint16_t bits = f32_to_f16(value);
  return bits == 0x8000U ? uint16_t{0} : bits;
}

GroupScale group_scale(Side side, Grid grid, Range range) {
  const uint16_t scale = to_f16_unsigned_zero((range.high - range.low) / grid.last);
  const float mid =
      side == Side::kKey ? (range.low + range.high) * 0.5F : range.low + f16_to_f32(scale) * grid.centre;
  return {scale, to_f16_unsigned_zero(mid)};
}

uint32_t groups_of(Side side, SectionShape shape) { return side == Side::kKey ? shape.dim : shape.tokens; }

uint32_t group_of(Side side, uint32_t token, uint32_t channel) {
  return side == Side::kKey ? channel : token;
}

// The range of one group over x * down. There is at least one valid token.
Range range_of(Side side, SectionShape shape, const float* x, uint32_t first, float down, uint32_t group) {
  const uint32_t members = side == Side::kKey ? shape.tokens - first : shape.dim;
  const float* member =
      side == Side::kKey ? x + size_t{first} * shape.dim + group : x + size_t{group} * shape.dim;
  const size_t stride = side == Side::kKey ? shape.dim : 1;
  Range range{*member * down, *member * down};
  for (uint32_t i = 1; i < members; ++i) {
    const float value = member[i * stride] * down;
    range.low = std::min(range.low, value);
    range.high = std::max(range.high, value);
  }
  return range;
}

uint32_t quantise(float value, Grid grid, float mid, float inverse) {
  const float code = std::nearbyint((value - mid) * inverse + grid.centre);
  return static_cast<uint32_t>(std::clamp(code, 0.0F, grid.last));
}

}  // namespace

uint32_t encode_uniform(const CodecInfo& codec, Side side, SectionShape shape, const float* x, uint32_t first,
                        uint8_t* codes, uint8_t* meta) {
  const int exponent = section_exponent_of(shape, x, first);
  const float down = power_of_two(-exponent);
  const Grid grid = grid_of(codec.bits, side);
  const uint32_t groups = groups_of(side, shape);
  const uint32_t first_group = side == Side::kKey ? 0 : first;
  uint8_t* scales = meta;
  uint8_t* mids = meta + size_t{2} * groups;
  if (first == shape.tokens) return static_cast<uint32_t>(exponent);

  for (uint32_t group = first_group; group < groups; ++group) {
    const GroupScale scale = group_scale(side, grid, range_of(side, shape, x, first, down, group));
    store_le<uint16_t>(scales + size_t{2} * group, scale.scale);
    store_le<uint16_t>(mids + size_t{2} * group, scale.mid);
  }
  for (uint32_t token = first; token < shape.tokens; ++token) {
    for (uint32_t channel = 0; channel < shape.dim; ++channel) {
      const size_t group = group_of(side, token, channel);
      const float scale = f16_to_f32(load_le<uint16_t>(scales + 2 * group));
      const float mid = f16_to_f32(load_le<uint16_t>(mids + 2 * group));
      const float inverse = scale > 0.0F ? 1.0F / scale : 0.0F;
      const float value = x[size_t{token} * shape.dim + channel] * down;
      put_code(codes, side, shape, codec.bits, token, channel, quantise(value, grid, mid, inverse));
    }
  }
  return static_cast<uint32_t>(exponent);
}

void decode_uniform(const CodecInfo& codec, Side side, SectionShape shape, const SideView& view, float* out) {
  const float up = power_of_two(static_cast<int32_t>(view.param));
  const Grid grid = grid_of(codec.bits, side);
  const uint8_t* scales = view.meta;
  const uint8_t* mids = view.meta + size_t{2} * groups_of(side, shape);
  for (uint32_t token = 0; token < shape.tokens; ++token) {
    for (uint32_t channel = 0; channel < shape.dim; ++channel) {
      const size_t group = group_of(side, token, channel);
      const float scale = f16_to_f32(load_le<uint16_t>(scales + 2 * group));
      const float mid = f16_to_f32(load_le<uint16_t>(mids + 2 * group));
      const auto code = static_cast<float>(get_code(view.codes, side, shape, codec.bits, token, channel));
      out[size_t{token} * shape.dim + channel] = ((code - grid.centre) * scale + mid) * up;
    }
  }
}

}  // namespace quire::reference
