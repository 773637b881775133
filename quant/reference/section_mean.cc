#include "quant/reference/section_mean.h"

#include <algorithm>
#include <cmath>

#include "quant/steps.h"

namespace quire::reference {
namespace {

constexpr int kLastMeanCode = 127;

SectionMean quantise_mean(const Row& mean, uint32_t dim) {
  SectionMean result;
  float largest = 0.0F;
  for (uint32_t channel = 0; channel < dim; ++channel) largest = std::max(largest, std::fabs(mean[channel]));
  if (largest < kNegligible) return result;
  result.step = ceil_step(largest / static_cast<float>(kLastMeanCode));
  const float step = step_value(result.step);
  for (uint32_t channel = 0; channel < dim; ++channel) {
    const auto code = static_cast<int>(std::nearbyint(mean[channel] / step));
    result.codes[channel] = static_cast<int8_t>(std::clamp(code, -kLastMeanCode, kLastMeanCode));
    result.values[channel] = static_cast<float>(result.codes[channel]) * step;
  }
  return result;
}

}  // namespace

SectionMean section_mean(SectionShape shape, const float* x, uint32_t first, float down) {
  Row mean{};
  if (first == shape.tokens) return {};
  const float per_token = 1.0F / static_cast<float>(shape.tokens - first);
  for (uint32_t channel = 0; channel < shape.dim; ++channel) {
    float sum = x[size_t{first} * shape.dim + channel] * down;
    for (uint32_t token = first + 1; token < shape.tokens; ++token) {
      sum += x[size_t{token} * shape.dim + channel] * down;
    }
    mean[channel] = sum * per_token;
  }
  return quantise_mean(mean, shape.dim);
}

Row residual_of(const float* row, uint32_t dim, float down, const SectionMean& mean) {
  Row residual{};
  for (uint32_t channel = 0; channel < dim; ++channel) {
    residual[channel] = row[channel] * down - mean.values[channel];
  }
  return residual;
}

}  // namespace quire::reference
