#include "tests/quant/inputs.h"

#include <algorithm>
#include <cmath>

#include "quant/kernels.h"
#include "quant/section_exponent.h"
#include "tests/quant/random.h"

namespace quire::test {
namespace {

using Values = std::vector<float>;

size_t count(SectionShape shape) { return size_t{shape.tokens} * shape.dim; }

Values normal(SectionShape shape, uint64_t seed) { return normal_values(count(shape), seed); }

// A few channels far away from zero, as keys of real models have.
Values outlier_channels(SectionShape shape, uint64_t seed) {
  Values values = normal(shape, seed);
  for (size_t i = 0; i < values.size(); ++i) {
    if (i % shape.dim % 13 == 5) values[i] = values[i] * 3 + 25;
  }
  return values;
}

// Tokens whose sizes span forty octaves: small ones flush in rot codecs.
Values spread_tokens(SectionShape shape, uint64_t seed) {
  Values values = normal(shape, seed);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = std::ldexp(values[i], -static_cast<int>(i / shape.dim % 41));
  }
  return values;
}

Values any_bf16(SectionShape shape, uint64_t seed) {
  Random random(seed);
  Values values(count(shape));
  for (float& value : values) value = random.finite_bf16();
  return values;
}

Values huge(SectionShape shape, uint64_t seed) {
  Random random(seed);
  Values values(count(shape));
  for (float& value : values) value = (random.below(2) == 0 ? 0x1.FEp127F : -0x1.FEp127F);
  return values;
}

Values subnormal(SectionShape shape, uint64_t seed) {
  Random random(seed);
  Values values(count(shape));
  for (float& value : values) value = std::ldexp(static_cast<float>(random.below(255)) - 127.0F, -149);
  return values;
}

Values all_equal(SectionShape shape, uint64_t seed) {
  return Values(count(shape), static_cast<float>(seed % 7) + 0.5F);
}

Values zeros_of_both_signs(SectionShape shape, uint64_t seed) {
  Random random(seed);
  Values values(count(shape));
  for (float& value : values) value = random.below(2) == 0 ? 0.0F : -0.0F;
  return values;
}

Values one_value(SectionShape shape, uint64_t seed) {
  Values values(count(shape));
  values[seed % values.size()] = -3.25F;
  return values;
}

// Every token the same row: only the mean carries anything.
Values equal_tokens(SectionShape shape, uint64_t seed) {
  Values values = normal(shape, seed);
  for (size_t i = shape.dim; i < values.size(); ++i) values[i] = values[i - shape.dim];
  return values;
}

// Multiples of 1/4: many exact ties and equal values.
Values coarse(SectionShape shape, uint64_t seed) {
  Values values = normal(shape, seed);
  for (float& value : values) value = std::nearbyint(value * 4) / 4;
  return values;
}

Values tiny_beside_one(SectionShape shape, uint64_t seed) {
  Values values = normal(shape, seed);
  for (size_t i = 1; i < values.size(); ++i) values[i] *= 0x1p-70F;
  values[0] = 1.0F;
  return values;
}

}  // namespace

const std::array<InputKind, 12> kInputKinds{{{"normal", normal},
                                             {"outlier channels", outlier_channels},
                                             {"spread tokens", spread_tokens},
                                             {"any bf16", any_bf16},
                                             {"huge", huge},
                                             {"subnormal", subnormal},
                                             {"all equal", all_equal},
                                             {"zeros of both signs", zeros_of_both_signs},
                                             {"one value", one_value},
                                             {"equal tokens", equal_tokens},
                                             {"coarse", coarse},
                                             {"tiny beside one", tiny_beside_one}}};

std::vector<float> codec_input(const InputKind& kind, CodecId codec, SectionShape shape, uint64_t seed) {
  Values values = kind.make(shape, seed);
  if (const float largest = largest_input(find_codec(codec)->family); largest > 0) {
    for (float& x : values) x = std::clamp(x, -largest, largest);
  }
  if (find_codec(codec)->space == CodecSpace::kRotated) {
    find_kernels(Isa::kScalar)->rotate(values.data(), shape.tokens, shape.dim, nullptr, values.data());
  }
  return values;
}

}  // namespace quire::test
