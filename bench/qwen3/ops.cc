#include "bench/qwen3/ops.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "bench/qwen3/lanes.h"

namespace quire::qwen3 {
namespace {

// The order of summation is fixed: two sums of lanes, then a remainder, then across.
QUIRE_VECTOR_CLONES
float sum_of_squares(const float* x, size_t n) {
  constexpr size_t kSums = 2;
  std::array<Floats, kSums> sums{};
  size_t i = 0;
  for (; i + kSums * kLanes <= n; i += kSums * kLanes) {
    for (size_t part = 0; part < kSums; ++part) {
      Floats values;
      std::memcpy(&values, x + i + part * kLanes, sizeof values);
      sums[part] += values * values;
    }
  }
  float sum = 0;
  for (; i < n; ++i) sum += x[i] * x[i];
  const Floats total = sums[0] + sums[1];
  for (uint32_t lane = 0; lane < kLanes; ++lane) sum += total[lane];
  return sum;
}

// e^x for |x| <= 87 within 2 units in the last place: 2^n times a polynomial on [-ln2/2, ln2/2].
// std::exp is as good but keeps the loop around it from being vectorized.
inline float fast_exp(float x) {
  constexpr float kLog2e = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float n = (x * kLog2e + kRound) - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  return p * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}

QUIRE_VECTOR_CLONES
void swiglu_loop(const float* gate, const float* up, float* out, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const float limited = std::min(std::max(-gate[i], -87.0f), 87.0f);
    out[i] = gate[i] / (1.0f + fast_exp(limited)) * up[i];
  }
}

}  // namespace

void rms_norm(std::span<const float> x, std::span<const float> weight, float eps, std::span<float> out) {
  const float mean = sum_of_squares(x.data(), x.size()) / static_cast<float>(x.size());
  const float scale = 1.0f / std::sqrt(mean + eps);
  for (size_t i = 0; i < x.size(); ++i) out[i] = x[i] * scale * weight[i];
}

void swiglu(std::span<const float> gate_up, std::span<float> out) {
  swiglu_loop(gate_up.data(), gate_up.data() + out.size(), out.data(), out.size());
}

void add(std::span<float> x, std::span<const float> y) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

double negative_log_likelihood(std::span<const float> logits, int32_t token) {
  const double high = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - high);
  return high + std::log(sum) - logits[static_cast<size_t>(token)];
}

int32_t argmax(std::span<const float> values) {
  return static_cast<int32_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

}  // namespace quire::qwen3
