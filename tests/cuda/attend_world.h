// A call of the attention kernels and its truth in f64 over the decoded values.
#pragma once

#include <bit>
#include <cmath>
#include <limits>
#include <numbers>

#include "quant/cuda/attend_dims.h"
#include "tests/cuda/support.h"
#include "tests/quant/attend_truth.h"

namespace quire::cuda::test {

using quire::test::EncodedSection;
using quire::test::Tokens;

inline double bound_of(CodecId key, CodecId value) {
  const auto is_float = [](CodecId id) { return find_codec(id)->family == CodecFamily::kFloat; };
  return is_float(key) && is_float(value) ? kAttendErrorBoundFloats : kAttendErrorBoundFolded;
}

// Whether prefill takes tiles of rows whose weights have 8 bits.
inline bool has_tiles(CodecId key, CodecId value, SectionShape shape) {
  const auto fits = [](CodecId id) {
    return find_codec(id)->bits <= 4 && find_codec(id)->family != CodecFamily::kFloat;
  };
  return fits(key) && fits(value) && shape.tokens == 64 && (shape.dim == 64 || shape.dim == 128);
}

// Whether the kernel over any codecs multiplies codes as they are; others are unfolded.
inline bool bits_are_multiplied(CodecId id) {
  const CodecFamily family = find_codec(id)->family;
  return family != CodecFamily::kTrellis && family != CodecFamily::kNonUniform;
}

// Decode and prefill choose a kernel; the others name one.
enum class Path : uint8_t { kDecode, kPrefill, kTiles, kWarpgroups, kUnfolded, kAnyCodecs };

inline cudaError_t attend(Path path, const AttendArgs& args) {
  switch (path) {
    case Path::kDecode:
      return attend_decode(args, nullptr);
    case Path::kPrefill:
      return attend_prefill(args, nullptr);
    case Path::kTiles:
      return attend_prefill_tiles(args, nullptr);
    case Path::kWarpgroups:
      return attend_prefill_warpgroups(args, nullptr);
    case Path::kUnfolded:
      return attend_unfolded(args, nullptr);
    case Path::kAnyCodecs:
      return attend_dim64(args, false, nullptr);
  }
  return cudaErrorInvalidValue;
}

struct Case {
  PageKind kind;
  uint32_t heads = 1;
  uint32_t sections = 2;
  uint32_t run_sections = 64;
  uint32_t scratch_sections = 64;  // of each run that prefill may unpack at once
  uint32_t rows = 4;
  std::vector<int32_t> first{};  // [rows] or empty
  Path path = Path::kDecode;
  uint32_t rotary_dim = 0;  // above 0: keys are in pre_rope space
  uint64_t seed = 1;
  std::vector<uint32_t> head_sections{};  // [heads] or empty: each sees the first so many
  std::vector<int8_t> key_levels{};       // of nuq codecs; empty: the default ones
  std::vector<int8_t> value_levels{};
  float key_size = 1.0F;  // what keys and queries are multiplied with
  float query_size = 1.0F;
  bool foreign_outliers = false;  // some name groups beyond the last
};

struct Output {
  std::vector<float> out;
  std::vector<float> lse;
};

// Everything a call works on.
class World {
 public:
  explicit World(const Case& c) : case_(c) {
    const SectionShape shape = c.kind.shape;
    const size_t n = size_t{shape.tokens} * shape.dim;
    for (uint32_t head = 0; head < c.heads; ++head) {
      tokens_.push_back({shape.dim, {}, {}});
      for (uint32_t s = 0; s < c.sections; ++s) {
        PageKind kind = c.kind;
        std::vector<float> keys = quire::test::normal_values(n, c.seed * 1000 + 2 * (head * 64 + s));
        for (float& key : keys) key *= c.key_size;
        std::vector<float> values = quire::test::normal_values(n, c.seed * 1000 + 2 * (head * 64 + s) + 1);
        for (size_t i = 0; i < n; ++i) values[i] += static_cast<float>(i % 5) * 0.2F;
        if (s > 0) kind.sink_tokens = 0;
        sections_.emplace_back(*find_kernels(Isa::kScalar), kind, keys.data(), values.data(), levels());
        if (c.foreign_outliers) misplace_outliers(&sections_.back());
        quire::test::append_section(sections_.back(), &tokens_.back());
      }
      if (c.rotary_dim > 0) turn_truth(head);
    }
    q_ = quire::test::normal_values(size_t{c.heads} * c.rows * shape.dim, c.seed + 5);
    for (float& x : q_)
      x *= c.query_size * static_cast<float>(2 * std::numbers::log2e / std::sqrt(shape.dim));
  }

  Output run() const {
    const SectionShape shape = case_.kind.shape;
    const DeviceSections device(sections_);
    const DeviceArray<float> q(q_);
    const DeviceArray<int32_t> first(or_one(case_.first));
    const DeviceArray<uint32_t> head_sections(or_one(case_.head_sections));
    AttendArgs args{};
    const DeviceArray<int8_t> key_levels(or_one(case_.key_levels));
    const DeviceArray<int8_t> value_levels(or_one(case_.value_levels));
    args.format = section_format(case_.kind);
    if (!case_.key_levels.empty()) args.format.key_levels = key_levels.data();
    if (!case_.value_levels.empty()) args.format.value_levels = value_levels.data();
    args.sections = device.refs();
    args.section_stride = args.section_count = case_.sections;
    args.run_sections = case_.run_sections;
    args.kv_heads = case_.heads;
    args.q = q.data();
    args.rows = case_.rows;
    args.first_token = case_.first.empty() ? nullptr : first.data();
    args.head_sections = case_.head_sections.empty() ? nullptr : head_sections.data();
    const Angles token = angles(shape.tokens, 1, true);
    const Angles base = angles(case_.sections, kBaseStep, false);
    const DeviceArray<float> token_cos(token.cosines);
    const DeviceArray<float> token_sin(token.sines);
    const DeviceArray<float> base_cos(base.cosines);
    const DeviceArray<float> base_sin(base.sines);
    const DeviceArray<float> balance(balances());
    if (case_.rotary_dim > 0) {
      args.rotation = {token_cos.data(), token_sin.data(), base_cos.data(),
                       base_sin.data(),  case_.rotary_dim, is_rotated() ? balance.data() : nullptr};
    }
    const uint32_t runs = run_count(args);
    const size_t rows = size_t{case_.heads} * case_.rows;
    const DeviceArray<float> o(rows * runs * shape.dim);
    const DeviceArray<float> m(rows * runs);
    const DeviceArray<float> l(rows * runs);
    args.partials = {o.data(), m.data(), l.data()};
    args.scratch_bytes = prefill_scratch_bytes(
        shape, case_.heads, runs, std::min({case_.scratch_sections, case_.run_sections, case_.sections}));
    const DeviceArray<uint8_t> scratch(std::max<size_t>(args.scratch_bytes, 1));
    args.scratch = scratch.data();
    expect_ran(attend(case_.path, args));
    const DeviceArray<float> out(rows * shape.dim);
    const DeviceArray<float> lse(rows);
    expect_ran(merge_partials(
        {args.partials, runs, case_.heads, case_.rows, shape.dim, out.data(), lse.data(), false}, nullptr));
    return {out.host(), lse.host()};
  }

  void expect_truth() const {
    const Output output = run();
    const uint32_t dim = case_.kind.shape.dim;
    const bool tiles = case_.path != Path::kDecode && case_.rotary_dim == 0 && case_.scratch_sections > 0 &&
                       has_tiles(case_.kind.key_codec, case_.kind.value_codec, case_.kind.shape);
    const double bound = tiles ? bound_of_tiles() : bound_of(case_.kind.key_codec, case_.kind.value_codec);
    for (uint32_t head = 0; head < case_.heads; ++head) {
      for (uint32_t r = 0; r < case_.rows; ++r) {
        const size_t row = size_t{head} * case_.rows + r;
        const std::vector<double> query(q_.begin() + static_cast<ptrdiff_t>(row * dim),
                                        q_.begin() + static_cast<ptrdiff_t>((row + 1) * dim));
        const size_t begin = case_.first.empty() ? 0 : static_cast<size_t>(std::max(case_.first[r], 0));
        const uint32_t sections = case_.head_sections.empty() ? case_.sections : case_.head_sections[head];
        const size_t end = size_t{sections} * case_.kind.shape.tokens;
        const quire::test::Truth truth = quire::test::attend_f64(query, tokens_[head], begin, end);
        ASSERT_LE(quire::test::relative_error(output.out.data() + row * dim, truth.output), bound)
            << "head " << head << ", row " << r << " of " << case_.rows;
        if (begin >= end) {
          ASSERT_EQ(output.lse[row], -std::numeric_limits<float>::infinity());
        } else {
          ASSERT_NEAR(output.lse[row], truth.log_sum_exp, 5 * bound);
        }
      }
    }
  }

 private:
  static constexpr double kBaseStep = 4099;  // positions from section to section

  struct Angles {
    std::vector<float> cosines{0};
    std::vector<float> sines{0};
  };
  double frequency(uint32_t pair) const {
    return std::pow(10000.0, -2.0 * static_cast<double>(pair) / case_.rotary_dim);
  }
  // Of positions 0, step, ..: by pair, or position after position.
  Angles angles(uint32_t positions, double step, bool by_pair) const {
    Angles result;
    const uint32_t half = case_.rotary_dim / 2;
    result.cosines.resize(size_t{positions} * half + 1);
    result.sines.resize(size_t{positions} * half + 1);
    for (uint32_t p = 0; p < positions; ++p) {
      for (uint32_t i = 0; i < half; ++i) {
        const size_t at = by_pair ? size_t{i} * positions + p : size_t{p} * half + i;
        result.cosines[at] = static_cast<float>(std::cos(step * p * frequency(i)));
        result.sines[at] = static_cast<float>(std::sin(step * p * frequency(i)));
      }
    }
    return result;
  }
  double bound_of_tiles() const {
    const auto rotated = [](CodecId id) { return find_codec(id)->space == CodecSpace::kRotated; };
    if (!rotated(case_.kind.key_codec) || !rotated(case_.kind.value_codec))
      return kAttendErrorBoundRequantised;
    return case_.path == Path::kTiles ? kAttendErrorBoundTiles : kAttendErrorBoundPairs;
  }
  // Device arrays are not empty.
  template <typename T>
  static std::vector<T> or_one(const std::vector<T>& some) {
    return some.empty() ? std::vector<T>(1) : some;
  }
  quire::test::LayerLevels levels() const {
    return {case_.key_levels.empty() ? nullptr : case_.key_levels.data(),
            case_.value_levels.empty() ? nullptr : case_.value_levels.data()};
  }
  static void misplace_outliers(EncodedSection* section) {
    const SectionShape shape = section->kind.shape;
    for (uint32_t lane = 0; lane < shape.tokens; lane += 5) {
      section->bytes[section->layout.key_meta + 4 * shape.dim + 2 * lane] = 0xFF;
    }
    for (uint32_t lane = 0; lane < shape.dim; lane += 5) {
      section->bytes[section->layout.value_meta + 4 * shape.tokens + 2 * lane] = 0xFF;
    }
  }
  bool is_rotated() const { return find_codec(case_.kind.key_codec)->space == CodecSpace::kRotated; }
  // [heads][dim].
  std::vector<float> balances() const {
    std::vector<float> all(size_t{case_.heads} * case_.kind.shape.dim);
    for (size_t i = 0; i < all.size(); ++i) all[i] = 0.5F + static_cast<float>(i % 7) * 0.25F;
    return all;
  }
  // Keys as queries meet them, in f64: out of the rotated space by its matrix, then turned to their
  // positions.
  void turn_truth(uint32_t head) {
    const uint32_t dim = case_.kind.shape.dim;
    const std::vector<float> all = balances();
    std::vector<double>& keys = tokens_[head].keys;
    uint32_t block = 1;
    while (dim % (2 * block) == 0) block *= 2;
    for (size_t t = 0; t < keys.size() / dim; ++t) {
      double* key = keys.data() + t * dim;
      std::vector<double> row(key, key + dim);
      for (uint32_t i = 0; is_rotated() && i < dim; ++i) {
        double sum = 0;
        for (uint32_t j = i / block * block; j < (i / block + 1) * block; ++j) {
          sum += row[j] * (std::popcount(i % block & j % block) % 2 == 0 ? 1 : -1);
        }
        key[i] = sum / std::sqrt(block) / static_cast<double>(all[size_t{head} * dim + i]);
      }
      const auto section = static_cast<double>(t / case_.kind.shape.tokens);
      const double position = section * kBaseStep + static_cast<double>(t % case_.kind.shape.tokens);
      const uint32_t half = case_.rotary_dim / 2;
      for (uint32_t i = 0; i < half; ++i) {
        const double a = key[i];
        const double b = key[i + half];
        const double angle = position * frequency(i);
        key[i] = a * std::cos(angle) - b * std::sin(angle);
        key[i + half] = b * std::cos(angle) + a * std::sin(angle);
      }
    }
  }

  Case case_;
  std::vector<EncodedSection> sections_;
  std::vector<Tokens> tokens_;
  std::vector<float> q_;
};

}  // namespace quire::cuda::test
