// Attention of the kernels against f64 over the decoded values: codecs, shapes, rows, masks, sinks, runs.
#include <cmath>
#include <limits>
#include <numbers>

#include "tests/cuda/support.h"
#include "tests/quant/attend_truth.h"

namespace quire::cuda::test {
namespace {

using quire::test::EncodedSection;
using quire::test::Tokens;

double bound_of(CodecId key, CodecId value) {
  const auto is_float = [](CodecId id) { return find_codec(id)->family == CodecFamily::kFloat; };
  return is_float(key) && is_float(value) ? kAttendErrorBoundFloats : kAttendErrorBoundFolded;
}

enum class Path : uint8_t { kDecode, kPrefill };

struct Case {
  PageKind kind;
  uint32_t heads = 1;
  uint32_t sections = 2;
  uint32_t run_sections = 64;
  uint32_t rows = 4;
  std::vector<int32_t> first{};  // [rows] or empty
  Path path = Path::kDecode;
  uint64_t seed = 1;
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
        const std::vector<float> keys = quire::test::normal_values(n, c.seed * 1000 + 2 * (head * 64 + s));
        std::vector<float> values = quire::test::normal_values(n, c.seed * 1000 + 2 * (head * 64 + s) + 1);
        for (size_t i = 0; i < n; ++i) values[i] += static_cast<float>(i % 5) * 0.2F;
        if (s > 0) kind.sink_tokens = 0;
        sections_.emplace_back(*find_kernels(Isa::kScalar), kind, keys.data(), values.data());
        quire::test::append_section(sections_.back(), &tokens_.back());
      }
    }
    q_ = quire::test::normal_values(size_t{c.heads} * c.rows * shape.dim, c.seed + 5);
    for (float& x : q_) x *= static_cast<float>(2 * std::numbers::log2e / std::sqrt(shape.dim));
  }

  Output run() const {
    const SectionShape shape = case_.kind.shape;
    const DeviceSections device(sections_);
    const DeviceArray<float> q(q_);
    const DeviceArray<int32_t> first(case_.first.empty() ? std::vector<int32_t>(1) : case_.first);
    AttendArgs args{};
    args.format = section_format(case_.kind);
    args.sections = device.refs();
    args.section_stride = args.section_count = case_.sections;
    args.run_sections = case_.run_sections;
    args.kv_heads = case_.heads;
    args.q = q.data();
    args.rows = case_.rows;
    args.first_token = case_.first.empty() ? nullptr : first.data();
    const uint32_t runs = run_count(args);
    const size_t rows = size_t{case_.heads} * case_.rows;
    const DeviceArray<float> o(rows * runs * shape.dim);
    const DeviceArray<float> m(rows * runs);
    const DeviceArray<float> l(rows * runs);
    args.partials = {o.data(), m.data(), l.data()};
    expect_ran(case_.path == Path::kDecode ? attend_decode(args, nullptr) : attend_prefill(args, nullptr));
    const DeviceArray<float> out(rows * shape.dim);
    const DeviceArray<float> lse(rows);
    expect_ran(merge_partials(
        {args.partials, runs, case_.heads, case_.rows, shape.dim, out.data(), lse.data()}, nullptr));
    return {out.host(), lse.host()};
  }

  void expect_truth() const {
    const Output output = run();
    const uint32_t dim = case_.kind.shape.dim;
    const double bound = bound_of(case_.kind.key_codec, case_.kind.value_codec);
    for (uint32_t head = 0; head < case_.heads; ++head) {
      for (uint32_t r = 0; r < case_.rows; ++r) {
        const size_t row = size_t{head} * case_.rows + r;
        const std::vector<double> query(q_.begin() + static_cast<ptrdiff_t>(row * dim),
                                        q_.begin() + static_cast<ptrdiff_t>((row + 1) * dim));
        const size_t begin = case_.first.empty() ? 0 : static_cast<size_t>(std::max(case_.first[r], 0));
        const size_t end = size_t{case_.sections} * case_.kind.shape.tokens;
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
  Case case_;
  std::vector<EncodedSection> sections_;
  std::vector<Tokens> tokens_;
  std::vector<float> q_;
};

class CudaAttend : public CudaTest {};

TEST_F(CudaAttend, AgreesWithF64ForAllCodecs) {
  for (const CodecId codec : codecs_with_kernels()) {
    for (const SectionShape shape : {SectionShape{64, 128}, SectionShape{32, 64}}) {
      if (kSlice && shape.dim == 128) continue;
      SCOPED_TRACE(std::string(find_codec(codec)->name) + ", " + quire::test::shape_name(shape));
      World({.kind = kind_of(codec, codec, shape), .sections = 3}).expect_truth();
    }
  }
}

TEST_F(CudaAttend, AgreesWithF64ForMixedCodecs) {
  if (kSlice) GTEST_SKIP() << "sanitizers see each codec's code in the test above";
  for (const CodecId key : codecs_with_kernels()) {
    for (const CodecId value : codecs_with_kernels()) {
      SCOPED_TRACE(std::string(find_codec(key)->name) + "/" + std::string(find_codec(value)->name));
      World({.kind = kind_of(key, value, {32, 64})}).expect_truth();
    }
  }
}

TEST_F(CudaAttend, AgreesWithF64AtAllShapes) {
  if (kSlice) GTEST_SKIP() << "sanitizers see other shapes in the other tests";
  for (const SectionShape shape : quire::test::all_shapes()) {
    for (const CodecId codec : {CodecId::kRot4, CodecId::kInt3}) {
      SCOPED_TRACE(std::string(find_codec(codec)->name) + ", " + quire::test::shape_name(shape));
      World({.kind = kind_of(codec, codec, shape), .rows = 3}).expect_truth();
    }
  }
}

TEST_F(CudaAttend, AgreesWithF64ForAllGroups) {
  for (uint32_t rows = 1; rows <= 17; rows += kSlice ? 8 : 1) {
    for (const CodecId codec : {CodecId::kRot4, CodecId::kInt8, CodecId::kBf16}) {
      SCOPED_TRACE(find_codec(codec)->name);
      World({.kind = kind_of(codec, codec, {64, 64}), .heads = 2, .rows = rows}).expect_truth();
    }
  }
}

TEST_F(CudaAttend, AgreesWithF64InRunsOfAnyLength) {
  for (const uint32_t run : {1U, 3U, 4U, 7U}) {
    if (kSlice && run != 3) continue;
    World({.kind = kind_of(CodecId::kRot3, CodecId::kRot2, {32, 64}), .sections = 11, .run_sections = run})
        .expect_truth();
  }
}

TEST_F(CudaAttend, MasksTokensPerRow) {
  const std::vector<int32_t> first{0, 1, 5, 31, 32, 33, 62, 63, 64, 70, 95, 96, 97};
  for (const Path path : {Path::kDecode, Path::kPrefill}) {
    World({.kind = kind_of(CodecId::kInt4, CodecId::kInt4, {32, 64}),
           .sections = 3,
           .rows = static_cast<uint32_t>(first.size()),
           .first = first,
           .path = path})
        .expect_truth();
  }
}

TEST_F(CudaAttend, SeesSinksUnfolded) {
  const std::vector<int32_t> first{0, 2, 3, 4, 5, 40};
  for (const CodecId codec : {CodecId::kRot4, CodecId::kInt2}) {
    for (const uint32_t sinks : {1U, 4U, 32U}) {
      SCOPED_TRACE(sinks);
      World({.kind = kind_of(codec, codec, {64, 64}, sinks), .rows = 6}).expect_truth();
      World({.kind = kind_of(codec, codec, {64, 64}, sinks), .rows = 6, .first = first}).expect_truth();
    }
  }
}

TEST_F(CudaAttend, PrefillAgreesWithF64) {
  for (const uint32_t rows : {1U, 64U, 100U}) {
    for (const SectionShape shape : {SectionShape{64, 128}, SectionShape{32, 64}, SectionShape{32, 192}}) {
      if (kSlice && (rows != 64 || shape.dim != 64)) continue;
      SCOPED_TRACE(std::to_string(rows) + " rows, " + quire::test::shape_name(shape));
      World({.kind = kind_of(CodecId::kRot4, CodecId::kRot4, shape), .rows = rows, .path = Path::kPrefill})
          .expect_truth();
    }
  }
}

std::vector<std::pair<CodecId, CodecId>> staged_pairs() {
  if (kSlice) return {{CodecId::kRot4, CodecId::kRot4}, {CodecId::kInt4, CodecId::kInt4}};
  return {{CodecId::kRot4, CodecId::kRot4}, {CodecId::kRot3, CodecId::kRot3},
          {CodecId::kRot2, CodecId::kRot2}, {CodecId::kRot3, CodecId::kRot2},
          {CodecId::kInt8, CodecId::kInt8}, {CodecId::kInt4, CodecId::kInt4},
          {CodecId::kInt3, CodecId::kInt3}, {CodecId::kInt2, CodecId::kInt2}};
}

TEST_F(CudaAttend, AgreesWithF64OverStagedPages) {
  for (const auto& [key, value] : staged_pairs()) {
    for (const uint32_t dim : {64U, 128U}) {
      if (kSlice && dim == 128) continue;
      SCOPED_TRACE(std::string(find_codec(key)->name) + "/" + std::string(find_codec(value)->name) +
                   ", head_dim " + std::to_string(dim));
      const PageKind kind = kind_of(key, value, {64, dim});
      World({.kind = kind, .sections = 14, .run_sections = 13, .rows = 5}).expect_truth();
      World({.kind = kind, .heads = 2, .sections = 3, .rows = 19}).expect_truth();
    }
  }
}

TEST_F(CudaAttend, MasksTokensAndSeesSinksOfStagedPages) {
  const std::vector<int32_t> first{0, 1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 191, 192};
  for (const auto& [key, value] : staged_pairs()) {
    SCOPED_TRACE(std::string(find_codec(key)->name) + "/" + std::string(find_codec(value)->name));
    for (const uint32_t sinks : {0U, 3U}) {
      World({.kind = kind_of(key, value, {64, 64}, sinks),
             .sections = 3,
             .rows = static_cast<uint32_t>(first.size()),
             .first = first})
          .expect_truth();
    }
  }
}

TEST_F(CudaAttend, StagedPagesGiveTheSameBitsUnderEverySchedule) {
  const World world({.kind = kind_of(CodecId::kRot4, CodecId::kRot4, {64, 64}, 4),
                     .heads = 2,
                     .sections = 11,
                     .run_sections = 10,
                     .rows = 4});
  const Output expected = world.run();
  for_all_schedules([&] { EXPECT_EQ(world.run().out, expected.out); });
}

TEST_F(CudaAttend, GivesTheSameBitsUnderEverySchedule) {
  const World world({.kind = kind_of(CodecId::kRot4, CodecId::kInt4, {32, 64}, 4),
                     .heads = 2,
                     .sections = 6,
                     .run_sections = 5,
                     .rows = 11});
  const Output expected = world.run();
  for_all_schedules([&] {
    const Output output = world.run();
    EXPECT_EQ(output.out, expected.out);
    EXPECT_EQ(output.lse, expected.lse);
  });
}

TEST_F(CudaAttend, RefusesWhatHasNoKernels) {
  AttendArgs args{};
  args.format = section_format(kind_of(CodecId::kRot4, CodecId::kRot4, {64, 128}));
  args.section_count = args.run_sections = args.rows = args.kv_heads = 1;
  args.format.key.id = CodecId{200};
  EXPECT_EQ(attend_decode(args, nullptr), cudaErrorNotSupported);
  EXPECT_EQ(encode_sections({args.format, nullptr, nullptr, nullptr, nullptr, 1}, nullptr),
            cudaErrorNotSupported);
  EXPECT_EQ(decode_sections({args.format, nullptr, nullptr, nullptr, 1}, nullptr), cudaErrorNotSupported);
  args.format.key.id = CodecId::kRot4;
  args.format.shape.dim = 48;
  EXPECT_EQ(attend_decode(args, nullptr), cudaErrorInvalidValue);
}

TEST_F(CudaAttend, ALongContext) {
  if (kSlice) GTEST_SKIP() << "sanitizers see the same code over shorter contexts";
  World({.kind = kind_of(CodecId::kRot4, CodecId::kRot4, {64, 128}),
         .heads = 2,
         .sections = 32,
         .run_sections = 8,
         .rows = 4})
      .expect_truth();
}

}  // namespace
}  // namespace quire::cuda::test
