#include "bench/micro/truth.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace quire::micro {
namespace {

std::vector<double> decode(const FoldedHeads& heads, const SectionRef& ref, Side side) {
  const Kernels& scalar = *find_kernels(Isa::kScalar);
  const SectionShape shape = heads.kind.shape;
  const SectionLayout& at = heads.layout.section;
  std::vector<float> rows(size_t{shape.tokens} * shape.dim);
  if (side == Side::kKey) {
    scalar.decode_key(heads.kind.key_codec, shape,
                      {ref.section + at.key_codes, ref.section + at.key_meta, ref.key_param}, rows.data());
  } else {
    scalar.decode_value(heads.kind.value_codec, shape,
                        {ref.section + at.value_codes, ref.section + at.value_meta, ref.value_param},
                        rows.data());
  }
  return {rows.begin(), rows.end()};
}

// x = H x over blocks of the largest power of two that divides the row.
void hadamard(std::span<double> x) {
  const size_t block = x.size() & (~x.size() + 1);
  for (size_t width = 1; width < block; width *= 2) {
    for (size_t i = 0; i < x.size(); ++i) {
      if ((i & width) != 0) continue;
      const double a = x[i];
      const double b = x[i + width];
      x[i] = (a + b) * std::numbers::sqrt2 / 2;
      x[i + width] = (a - b) * std::numbers::sqrt2 / 2;
    }
  }
}

// A key as it was before the balanced rotation, turned by its position.
void rope(const PageAngles& angles, size_t position, std::span<double> key) {
  if (!angles.balance.empty()) {
    hadamard(key);
    for (size_t c = 0; c < key.size(); ++c) key[c] /= angles.balance[c];
  }
  for (uint32_t i = 0; i < angles.half; ++i) {
    const double angle = static_cast<double>(position) * inverse_frequency(i, angles.half);
    const double a = key[i];
    const double b = key[i + angles.half];
    key[i] = a * std::cos(angle) - b * std::sin(angle);
    key[i + angles.half] = b * std::cos(angle) + a * std::sin(angle);
  }
}

}  // namespace

DecodedHead decode_head(const FoldedHeads& heads, size_t head, size_t pages) {
  const SectionShape shape = heads.kind.shape;
  DecodedHead decoded{shape.dim, {}, {}};
  for (size_t page = 0; page < pages; ++page) {
    std::vector<double> keys = decode(heads, heads.heads[head][page], Side::kKey);
    for (size_t t = 0; heads.pre_rope() && t < shape.tokens; ++t) {
      rope(heads.angles, page * shape.tokens + t, std::span(keys).subspan(t * shape.dim, shape.dim));
    }
    const std::vector<double> values = decode(heads, heads.heads[head][page], Side::kValue);
    decoded.keys.insert(decoded.keys.end(), keys.begin(), keys.end());
    decoded.values.insert(decoded.values.end(), values.begin(), values.end());
  }
  return decoded;
}

std::vector<double> attend_f64(const DecodedHead& head, std::span<const float> q) {
  std::vector<double> scores;
  for (size_t at = 0; at < head.keys.size(); at += head.dim) {
    double score = 0;
    for (size_t c = 0; c < head.dim; ++c) score += q[c] * head.keys[at + c];
    scores.push_back(score);
  }
  const double top = *std::ranges::max_element(scores);
  std::vector<double> out(head.dim);
  double sum = 0;
  for (size_t t = 0; t < scores.size(); ++t) {
    const double weight = std::exp2(scores[t] - top);
    sum += weight;
    for (size_t c = 0; c < head.dim; ++c) out[c] += weight * head.values[t * head.dim + c];
  }
  for (double& value : out) value /= sum;
  return out;
}

double relative_error(std::span<const float> actual, std::span<const double> truth) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    error += std::pow(actual[i] - truth[i], 2);
    norm += std::pow(truth[i], 2);
  }
  return std::sqrt(error / norm);
}

}  // namespace quire::micro
