#include "tests/quant/attend_truth.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "quant/bytes.h"
#include "quant/half.h"

namespace quire::test {
namespace {

std::vector<double> decode_side(const EncodedSection& section, Side side) {
  const Kernels& kernels = *find_kernels(Isa::kScalar);
  const SectionShape shape = section.kind.shape;
  const uint8_t* at = section.bytes.data();
  const bool key = side == Side::kKey;
  const SideView view{at + (key ? section.layout.key_codes : section.layout.value_codes),
                      at + (key ? section.layout.key_meta : section.layout.value_meta),
                      key ? section.key_param : section.value_param};
  std::vector<float> out(size_t{shape.tokens} * shape.dim);
  const SideCodec codec = key ? SideCodec(section.kind.key_codec, section.levels.keys)
                              : SideCodec(section.kind.value_codec, section.levels.values);
  (key ? kernels.decode_key : kernels.decode_value)(codec, shape, view, out.data());
  const uint8_t* sinks = at + (key ? section.layout.sink_keys : section.layout.sink_values);
  for (size_t i = 0; i < size_t{section.kind.sink_tokens} * shape.dim; ++i) {
    out[i] = bf16_to_f32(load_le<uint16_t>(sinks + 2 * i));
  }
  return {out.begin(), out.end()};
}

}  // namespace

void append_section(const EncodedSection& section, Tokens* tokens) {
  for (const auto& [side, rows] : {std::pair{Side::kKey, &tokens->keys}, {Side::kValue, &tokens->values}}) {
    const std::vector<double> decoded = decode_side(section, side);
    rows->insert(rows->end(), decoded.begin(), decoded.end());
  }
}

Truth attend_f64(std::span<const double> q, const Tokens& tokens, size_t begin, size_t end) {
  Truth truth{std::vector<double>(tokens.dim), -std::numeric_limits<double>::infinity()};
  if (begin >= end) return truth;
  std::vector<double> scores;
  for (size_t token = begin; token < end; ++token) {
    double score = 0;
    for (size_t i = 0; i < tokens.dim; ++i) score += q[i] * tokens.keys[token * tokens.dim + i];
    scores.push_back(score);
  }
  const double largest = *std::ranges::max_element(scores);
  double sum = 0;
  for (size_t token = begin; token < end; ++token) {
    const double weight = std::exp2(scores[token - begin] - largest);
    sum += weight;
    for (size_t i = 0; i < tokens.dim; ++i) truth.output[i] += weight * tokens.values[token * tokens.dim + i];
  }
  for (double& value : truth.output) value /= sum;
  truth.log_sum_exp = (largest + std::log2(sum)) * std::numbers::ln2;
  return truth;
}

double relative_error(const float* actual, const std::vector<double>& expected) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(actual[i] - expected[i], 2);
    norm += std::pow(expected[i], 2);
  }
  return norm == 0 ? std::sqrt(error) : std::sqrt(error / norm);
}

}  // namespace quire::test
