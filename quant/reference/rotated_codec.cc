// rot4, rot3, rot2: the page's mean per channel, one logarithmic scale per token, Gaussian levels.
#include <algorithm>
#include <array>
#include <cmath>

#include "quant/bytes.h"
#include "quant/dot_quad.h"
#include "quant/levels.h"
#include "quant/reference/codecs.h"
#include "quant/reference/section_mean.h"
#include "quant/reference/sum16.h"
#include "quant/section_exponent.h"
#include "quant/steps.h"

namespace quire::reference {
namespace {

constexpr uint32_t kMaxTokens = 128;
constexpr int kLastScaleCode = 255;

uint32_t quantise(const LevelTable& table, float residual, float inverse) {
  const float y = residual * inverse;
  uint32_t code = 0;
  for (const float threshold : table.thresholds) code += threshold < y ? 1U : 0U;
  return code;
}

struct CodedToken {
  bool negligible = true;
  int step = 0;
  std::array<uint8_t, kMaxDim> codes{};
};

// The codes that a Gaussian of the row's rms would get, and the scale that makes their levels as long as the
// row, seen from the row.
CodedToken code_token(const LevelTable& table, const Row& residual, uint32_t dim) {
  CodedToken token;
  Row terms{};
  for (uint32_t channel = 0; channel < dim; ++channel) terms[channel] = residual[channel] * residual[channel];
  const float energy = sum16(terms, dim);
  const float scale = std::sqrt(energy * (1.0F / static_cast<float>(dim))) / table.unit;
  if (scale < kNegligible) return token;

  const float inverse = 1.0F / scale;
  int32_t squares = 0;
  for (uint32_t channel = 0; channel < dim; ++channel) {
    const uint32_t code = quantise(table, residual[channel], inverse);
    const int level{table.levels[code]};
    token.codes[channel] = static_cast<uint8_t>(code);
    terms[channel] = residual[channel] * static_cast<float>(level);
    squares += level * level;
  }
  token.negligible = false;
  token.step = round_step(rotated_scale(energy, sum16(terms, dim), static_cast<float>(squares)));
  return token;
}

}  // namespace

uint32_t encode_rotated(const CodecInfo& codec, Side side, SectionShape shape, const float* x, uint32_t first,
                        uint8_t* codes, uint8_t* meta) {
  const LevelTable table = level_table(codec.bits);
  const int exponent = section_exponent_of(shape, x, first);
  const float down = power_of_two(-exponent);
  const SectionMean mean = section_mean(shape, x, first, down);

  std::array<CodedToken, kMaxTokens> tokens{};
  int largest_step = 0;
  bool any = false;
  for (uint32_t token = first; token < shape.tokens; ++token) {
    tokens[token] =
        code_token(table, residual_of(x + size_t{token} * shape.dim, shape.dim, down, mean), shape.dim);
    if (tokens[token].negligible) continue;
    largest_step = any ? std::max(largest_step, tokens[token].step) : tokens[token].step;
    any = true;
  }

  uint8_t* scale_codes = meta;
  uint8_t* mean_codes = meta + shape.tokens;
  for (uint32_t channel = 0; channel < shape.dim; ++channel) {
    mean_codes[channel] = static_cast<uint8_t>(mean.codes[channel]);
  }
  for (uint32_t token = first; token < shape.tokens; ++token) {
    const int scale_code = tokens[token].step - largest_step + kLastScaleCode;
    if (tokens[token].negligible || scale_code < 1) continue;
    scale_codes[token] = static_cast<uint8_t>(scale_code);
    for (uint32_t channel = 0; channel < shape.dim; ++channel) {
      put_code(codes, side, shape, codec.bits, token, channel, tokens[token].codes[channel]);
    }
  }
  return pack_steps(largest_step + kStepsPerOctave * exponent, mean.step + kStepsPerOctave * exponent);
}

void decode_rotated(const CodecInfo& codec, Side side, SectionShape shape, const SideView& view, float* out) {
  const LevelTable table = level_table(codec.bits);
  const auto largest_step = static_cast<int16_t>(view.param & 0xFFFFU);
  const float mean_step = step_value(static_cast<int16_t>(view.param >> 16));
  const uint8_t* scale_codes = view.meta;
  const uint8_t* mean_codes = view.meta + shape.tokens;
  for (uint32_t token = 0; token < shape.tokens; ++token) {
    const int scale_code = scale_codes[token];
    const float scale = scale_code == 0 ? 0.0F : step_value(largest_step + scale_code - kLastScaleCode);
    for (uint32_t channel = 0; channel < shape.dim; ++channel) {
      const auto level =
          static_cast<float>(table.levels[get_code(view.codes, side, shape, codec.bits, token, channel)]);
      const auto mean_code = static_cast<float>(static_cast<int8_t>(mean_codes[channel]));
      out[size_t{token} * shape.dim + channel] = level * scale + mean_code * mean_step;
    }
  }
}

}  // namespace quire::reference
