// Attention of every table against f64 over the decoded values: all codec pairs, shapes, masks, sinks,
// unfolded rows and keys that are rotated on read.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>

#include "tests/quant/attend_truth.h"
#include "tests/quant/random.h"
#include "tests/quant/section.h"

namespace quire::test {
namespace {

constexpr float kEmpty = -std::numeric_limits<float>::infinity();
constexpr std::array<uint32_t, 18> kRowCounts{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 64};

double side_bound(CodecId codec) {
  const CodecInfo& info = *find_codec(codec);
  if (info.family == CodecFamily::kFloat) return kAttendErrorBoundFloat;
  return info.bits == 8 ? kAttendErrorBoundInt8 : kAttendErrorBound;
}

double pair_bound(CodecId key, CodecId value) { return std::max(side_bound(key), side_bound(value)); }

std::string pair_name(CodecId key, CodecId value) {
  return std::string(find_codec(key)->name) + "/" + std::string(find_codec(value)->name);
}

// Scores with a standard deviation of two nats: neither flat nor one-hot.
AlignedArray<float> queries(uint32_t rows, uint32_t dim, uint64_t seed) {
  AlignedArray<float> q(size_t{rows} * dim);
  const std::vector<float> values = normal_values(q.size(), seed);
  const auto scale = static_cast<float>(2 * std::numbers::log2e / std::sqrt(dim));
  for (size_t i = 0; i < q.size(); ++i) q[i] = values[i] * scale;
  return q;
}

// The running state of a tile, empty at first.
struct State {
  State(uint32_t rows_of, uint32_t dim_of)
      : rows(rows_of), dim(dim_of), o(size_t{rows} * dim), m(rows), l(rows) {
    std::ranges::fill(m.span(), kEmpty);
  }
  AttendState view() { return {o.data(), m.data(), l.data()}; }
  std::vector<float> finish(const Kernels& kernels) {
    std::vector<float> lse(rows);
    kernels.finish(view(), rows, dim, lse.data());
    return lse;
  }
  const float* row(uint32_t r) const { return o.data() + size_t{r} * dim; }

  uint32_t rows;
  uint32_t dim;
  AlignedArray<float> o;
  AlignedArray<float> m;
  AlignedArray<float> l;
};

// What becomes of normal keys [tokens][dim] before they are folded.
using ShapeKeys = void (*)(uint32_t dim, std::vector<float>* keys);

// Sections of one kind, and their tokens in f64.
struct Sections {
  Sections(const PageKind& page_kind, size_t n, uint64_t seed, ShapeKeys shape_keys = nullptr)
      : kind(page_kind), tokens{kind.shape.dim, {}, {}} {
    const size_t values = size_t{kind.shape.tokens} * kind.shape.dim;
    for (size_t i = 0; i < n; ++i) {
      std::vector<float> keys = normal_values(values, seed + 2 * i);
      if (shape_keys != nullptr) shape_keys(kind.shape.dim, &keys);
      std::vector<float> rows = normal_values(values, seed + 2 * i + 1);
      for (size_t j = 0; j < values; ++j) rows[j] += static_cast<float>(j % 5) * 0.2F;
      encoded.emplace_back(*find_kernels(Isa::kScalar), kind, keys.data(), rows.data());
      refs.push_back(encoded.back().ref());
      append_section(encoded.back(), &tokens);
    }
  }
  FoldedPages pages(const KeyRotation* rotation = nullptr) const {
    return {kind.key_codec, kind.value_codec,          kind.sink_tokens,
            kind.shape,     page_layout(kind).section, rotation};
  }
  size_t token_count() const { return refs.size() * kind.shape.tokens; }

  PageKind kind;
  std::vector<EncodedSection> encoded;
  std::vector<SectionRef> refs;
  Tokens tokens;
};

PageKind kind_of(CodecId key, CodecId value, SectionShape shape, uint8_t sinks = 0) {
  return {key, value, KeySpace::kPostRope, sinks, 1, shape};
}

class Attend : public PerIsa {
 protected:
  void folded(const Sections& sections, const QueryTile& tile, State* state,
              const KeyRotation* rotation = nullptr) const {
    AlignedArray<uint8_t> scratch(kernels().attend_scratch_bytes(tile.rows, sections.kind.shape));
    kernels().attend_folded(sections.pages(rotation), sections.refs, tile, state->view(), scratch.data());
  }

  // Attends and compares every row with f64.
  void expect_truth(const Sections& sections, uint32_t rows, const int32_t* first_token = nullptr) const {
    const uint32_t dim = sections.kind.shape.dim;
    const AlignedArray<float> q = queries(rows, dim, 1000 + rows);
    State state(rows, dim);
    folded(sections, {q.data(), rows, first_token}, &state);
    const std::vector<float> lse = state.finish(kernels());
    for (uint32_t r = 0; r < rows; ++r) {
      const std::vector<double> query(q.data() + size_t{r} * dim, q.data() + size_t{r + 1} * dim);
      const size_t begin = first_token == nullptr ? 0 : static_cast<size_t>(std::max(first_token[r], 0));
      const Truth truth = attend_f64(query, sections.tokens, begin, sections.token_count());
      const double bound = pair_bound(sections.kind.key_codec, sections.kind.value_codec);
      ASSERT_LE(relative_error(state.row(r), truth.output), bound) << "row " << r << " of " << rows;
      if (begin >= sections.token_count()) {
        ASSERT_EQ(lse[r], kEmpty);
        continue;
      }
      ASSERT_NEAR(lse[r], truth.log_sum_exp, 5 * bound) << "row " << r << " of " << rows;
    }
  }

  // Attends rows together, then in tiles of 1, 2, 3, ... rows.
  void expect_bits_of_fewer_rows(const Sections& sections, uint32_t row_count, const int32_t* first) const {
    const uint32_t dim = sections.kind.shape.dim;
    const AlignedArray<float> q = queries(row_count, dim, 76);
    State together(row_count, dim);
    folded(sections, {q.data(), row_count, first}, &together);
    uint32_t begin = 0;
    for (uint32_t rows = 1; begin < row_count; begin += rows++) {
      const uint32_t n = std::min(rows, row_count - begin);
      AlignedArray<float> part(size_t{n} * dim, begin % 3);
      std::copy_n(q.data() + size_t{begin} * dim, part.size(), part.data());
      State apart(n, dim);
      folded(sections, {part.data(), n, first == nullptr ? nullptr : first + begin}, &apart);
      for (uint32_t r = 0; r < n; ++r) {
        ASSERT_EQ(apart.m[r], together.m[begin + r]) << "row " << begin + r;
        ASSERT_EQ(apart.l[r], together.l[begin + r]) << "row " << begin + r;
        ASSERT_TRUE(std::equal(apart.row(r), apart.row(r) + dim, together.row(begin + r)))
            << "row " << begin + r;
      }
    }
  }
};

TEST_P(Attend, AgreesWithF64ForAllCodecPairs) {
  const uint32_t some_rows = kernels().isa == Isa::kAmx ? 17 : 4;  // fewer are not AMX's
  for (const CodecInfo& key : kCodecs) {
    for (const CodecInfo& value : kCodecs) {
      SCOPED_TRACE(pair_name(key.id, value.id));
      const Sections sections(kind_of(key.id, value.id, {64, 128}), 3, 70);
      expect_truth(sections, 1);
      expect_truth(sections, some_rows);
    }
  }
}

TEST_P(Attend, AgreesWithF64AtAllShapes) {
  for (const SectionShape shape : all_shapes()) {
    for (const CodecInfo& codec : kCodecs) {
      SCOPED_TRACE(shape_name(shape) + ", " + std::string(codec.name));
      expect_truth(Sections(kind_of(codec.id, codec.id, shape), 2, 71), 3);
    }
  }
}

TEST_P(Attend, AgreesWithF64ForAllRowCounts) {
  for (const CodecId codec :
       {CodecId::kRot4, CodecId::kRot3, CodecId::kInt8, CodecId::kInt2, CodecId::kBf16}) {
    for (const SectionShape shape : {SectionShape{64, 128}, SectionShape{32, 96}}) {
      const Sections sections(kind_of(codec, codec, shape), 2, 72);
      for (const uint32_t rows : kRowCounts) {
        SCOPED_TRACE(std::string(find_codec(codec)->name) + ", " + shape_name(shape));
        expect_truth(sections, rows);
      }
    }
  }
}

TEST_P(Attend, MasksTheFirstTokensOfTheFirstSectionPerRow) {
  const std::vector<int32_t> first{0, 1, 5, 31, 32, 33, 62, 63, 64, 7, 16, 48};
  for (const CodecInfo& codec : kCodecs) {
    SCOPED_TRACE(codec.name);
    for (const size_t n : {1U, 2U}) {
      const Sections sections(kind_of(codec.id, codec.id, {64, 64}), n, 73);
      expect_truth(sections, static_cast<uint32_t>(first.size()), first.data());
    }
  }
}

TEST_P(Attend, SeesSinksUnfoldedAndMasksThemToo) {
  const std::vector<int32_t> first{0, 2, 3, 4, 5, 40};
  for (const CodecInfo& codec : kCodecs) {
    for (const uint8_t sinks : {1, 4, 7, 32}) {
      for (const SectionShape shape : {SectionShape{64, 128}, SectionShape{32, 96}}) {
        SCOPED_TRACE(std::string(codec.name) + ", sinks " + std::to_string(sinks) + ", " + shape_name(shape));
        const Sections sections(kind_of(codec.id, codec.id, shape, sinks), 1, 74);
        expect_truth(sections, 5);
        if (shape.tokens == 64) expect_truth(sections, static_cast<uint32_t>(first.size()), first.data());
      }
    }
  }
}

// So many that levels are unpacked for them all, which they are not for the few.
TEST_P(Attend, ARowsBitsDependOnThatRowOnly) {
  constexpr uint32_t kRows = 130;
  for (const CodecInfo& codec : kCodecs) {
    SCOPED_TRACE(codec.name);
    const Sections sections(kind_of(codec.id, codec.id, {64, 128}), 2, 75);
    std::vector<int32_t> first(kRows);
    for (uint32_t r = 0; r < kRows; ++r) first[r] = static_cast<int32_t>(r * 7 % 65);
    expect_bits_of_fewer_rows(sections, kRows, first.data());
  }
}

// Of a long row no token dominates, so that its weights are bytes: in blocks of 8, 4, 2 and 1.
TEST_P(Attend, RowsOverManySectionsAgreeWithF64AndHaveBitsOfTheirOwn) {
  constexpr uint32_t kRows = 23;
  for (const CodecId codec : {CodecId::kRot4, CodecId::kInt4}) {
    const Sections sections(kind_of(codec, codec, {64, 128}), 32, 76);
    expect_truth(sections, kRows);
    expect_bits_of_fewer_rows(sections, kRows, nullptr);
  }
}

TEST_P(Attend, ATileOfTheLargestSizeAgreesWithItsRows) {
  const SectionShape shape{64, 128};
  const Sections sections(kind_of(CodecId::kRot4, CodecId::kRot4, shape), 2, 77);
  expect_truth(sections, kMaxTileRows);
}

TEST_P(Attend, NothingVisibleLeavesTheStateEmpty) {
  const SectionShape shape{32, 64};
  for (const CodecInfo& codec : kCodecs) {
    const Sections sections(kind_of(codec.id, codec.id, shape), 1, 78);
    const AlignedArray<float> q = queries(3, shape.dim, 79);
    const std::vector<int32_t> first(3, 32);
    State state(3, shape.dim);
    folded(sections, {q.data(), 3, first.data()}, &state);
    const std::vector<float> lse = state.finish(kernels());
    for (const float value : lse) EXPECT_EQ(value, kEmpty);
    for (const float value : state.o.span()) EXPECT_EQ(value, 0.0F);
  }
}

// Large logits must not make a NaN: softmax is then one-hot.
TEST_P(Attend, LargeScoresStayFinite) {
  const SectionShape shape{64, 128};
  for (const CodecInfo& codec : kCodecs) {
    SCOPED_TRACE(codec.name);
    const Sections sections(kind_of(codec.id, codec.id, shape), 2, 80);
    AlignedArray<float> q = queries(2, shape.dim, 81);
    for (float& value : q.span()) value *= 1000;
    State state(2, shape.dim);
    folded(sections, {q.data(), 2, nullptr}, &state);
    for (const float value : state.finish(kernels())) EXPECT_TRUE(std::isfinite(value));
    for (const float value : state.o.span()) EXPECT_TRUE(std::isfinite(value));
  }
}

// Values and keys of any size that the codecs hold, with queries scaled to match.
TEST_P(Attend, HugeAndTinyValuesKeepTheirRelativeError) {
  const SectionShape shape{64, 64};
  for (const CodecInfo& codec : kCodecs) {
    for (const int exponent : {-90, -60, 60, 90}) {
      SCOPED_TRACE(std::string(codec.name) + ", 2^" + std::to_string(exponent));
      std::vector<float> keys = normal_values(size_t{shape.tokens} * shape.dim, 82);
      std::vector<float> values = normal_values(keys.size(), 83);
      for (float& value : values) value = std::ldexp(value + 0.3F, exponent);
      for (float& key : keys) key = std::ldexp(key, exponent);
      const EncodedSection section(*find_kernels(Isa::kScalar), kind_of(codec.id, codec.id, shape),
                                   keys.data(), values.data());
      Tokens tokens{shape.dim, {}, {}};
      append_section(section, &tokens);
      AlignedArray<float> q = queries(1, shape.dim, 84);
      for (float& value : q.span()) value = std::ldexp(value, -exponent);
      State state(1, shape.dim);
      AlignedArray<uint8_t> scratch(kernels().attend_scratch_bytes(1, shape));
      const SectionRef ref = section.ref();
      kernels().attend_folded({codec.id, codec.id, 0, shape, section.layout, nullptr}, {&ref, 1},
                              {q.data(), 1, nullptr}, state.view(), scratch.data());
      state.finish(kernels());
      const std::vector<double> query(q.span().begin(), q.span().end());
      const Truth truth = attend_f64(query, tokens, 0, shape.tokens);
      EXPECT_LE(relative_error(state.row(0), truth.output), pair_bound(codec.id, codec.id));
    }
  }
}

TEST_P(Attend, UnfoldedRowsAgreeWithF64) {
  Random random(85);
  for (const uint32_t dim : {32U, 96U, 128U, 256U}) {
    for (const uint32_t token_count : {1U, 3U, 17U, 63U, 64U, 128U}) {
      SCOPED_TRACE(std::to_string(token_count) + " tokens, " + std::to_string(dim) + " channels");
      constexpr uint32_t kRows = 9;
      const std::vector<float> keys = normal_values(size_t{token_count} * dim, 86);
      const std::vector<float> values = normal_values(size_t{token_count} * dim, 87);
      const Tokens tokens{dim, {keys.begin(), keys.end()}, {values.begin(), values.end()}};
      const AlignedArray<float> q = queries(kRows, dim, 88);
      std::vector<int32_t> begin(kRows);
      std::vector<int32_t> end(kRows);
      for (uint32_t r = 0; r < kRows; ++r) {
        begin[r] = r == 0 ? 0 : static_cast<int32_t>(random.below(token_count));
        end[r] =
            r == 0 ? static_cast<int32_t>(token_count) : static_cast<int32_t>(random.below(token_count + 1));
      }
      State state(kRows, dim);
      AlignedArray<uint8_t> scratch(kernels().attend_scratch_bytes(kRows, {128, dim}));
      kernels().attend_unfolded({keys.data(), values.data(), token_count, begin.data(), end.data()},
                                {q.data(), kRows, nullptr}, dim, state.view(), scratch.data());
      state.finish(kernels());
      for (uint32_t r = 0; r < kRows; ++r) {
        const std::vector<double> query(q.data() + size_t{r} * dim, q.data() + size_t{r + 1} * dim);
        const Truth truth =
            attend_f64(query, tokens, static_cast<size_t>(begin[r]), static_cast<size_t>(end[r]));
        EXPECT_LE(relative_error(state.row(r), truth.output), kAttendErrorBoundFloat) << "row " << r;
      }
    }
  }
}

TEST_P(Attend, UnfoldedRowsContinueAFoldedState) {
  const SectionShape shape{64, 128};
  const Sections sections(kind_of(CodecId::kRot4, CodecId::kRot4, shape), 2, 89);
  const std::vector<float> keys = normal_values(size_t{20} * shape.dim, 90);
  const std::vector<float> values = normal_values(size_t{20} * shape.dim, 91);
  const AlignedArray<float> q = queries(2, shape.dim, 92);
  const std::vector<int32_t> begin{0, 0};
  const std::vector<int32_t> end{20, 11};
  State state(2, shape.dim);
  folded(sections, {q.data(), 2, nullptr}, &state);
  AlignedArray<uint8_t> scratch(kernels().attend_scratch_bytes(2, shape));
  kernels().attend_unfolded({keys.data(), values.data(), 20, begin.data(), end.data()},
                            {q.data(), 2, nullptr}, shape.dim, state.view(), scratch.data());
  state.finish(kernels());
  Tokens tokens = sections.tokens;
  tokens.keys.insert(tokens.keys.end(), keys.begin(), keys.end());
  tokens.values.insert(tokens.values.end(), values.begin(), values.end());
  for (uint32_t r = 0; r < 2; ++r) {
    const std::vector<double> query(q.data() + size_t{r} * shape.dim, q.data() + size_t{r + 1} * shape.dim);
    const Truth truth = attend_f64(query, tokens, 0, sections.token_count() + static_cast<size_t>(end[r]));
    EXPECT_LE(relative_error(state.row(r), truth.output), kAttendErrorBound);
  }
}

// Cosines and sines of position * inverse frequency for each pair, in f64 and rounded to f32.
struct Angles {
  std::vector<float> cosines;
  std::vector<float> sines;
};

Angles angles(const std::vector<double>& positions, uint32_t half) {
  Angles result;
  for (const double position : positions) {
    for (uint32_t i = 0; i < half; ++i) {
      const double angle = position * std::pow(10000.0, -static_cast<double>(i) / half);
      result.cosines.push_back(static_cast<float>(std::cos(angle)));
      result.sines.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return result;
}

// [positions][half] to [half][positions].
Angles by_pair(const Angles& by_position, uint32_t half) {
  Angles result;
  for (uint32_t i = 0; i < half; ++i) {
    for (size_t at = i; at < by_position.cosines.size(); at += half) {
      result.cosines.push_back(by_position.cosines[at]);
      result.sines.push_back(by_position.sines[at]);
    }
  }
  return result;
}

void turn_f64(double* row, uint32_t half, double position) {
  for (uint32_t i = 0; i < half; ++i) {
    const double angle = position * std::pow(10000.0, -static_cast<double>(i) / half);
    const double a = row[i];
    const double b = row[i + half];
    row[i] = a * std::cos(angle) - b * std::sin(angle);
    row[i + half] = b * std::cos(angle) + a * std::sin(angle);
  }
}

// Undoes H and the balance in f64: the matrix once more, then 1 / diag.
void leave_rotated_space_f64(std::vector<double>* keys, uint32_t dim, const std::vector<float>& balance) {
  uint32_t block = 1;
  while (dim % (2 * block) == 0) block *= 2;
  for (size_t start = 0; start < keys->size(); start += dim) {
    const std::vector<double> row(keys->begin() + static_cast<ptrdiff_t>(start),
                                  keys->begin() + static_cast<ptrdiff_t>(start + dim));
    for (uint32_t i = 0; i < dim; ++i) {
      double sum = 0;
      for (uint32_t j = i / block * block; j < (i / block + 1) * block; ++j) {
        sum += row[j] * (std::popcount(i % block & j % block) % 2 == 0 ? 1 : -1);
      }
      (*keys)[start + i] = sum / std::sqrt(block) / balance[i];
    }
  }
}

// Attends sections at two bases in pre_rope space and compares every row with f64. Queries are scaled so that
// the scores of each have a standard deviation of two nats.
class AttendPreRope : public Attend {
 protected:
  void expect_turned_truth(const Sections& sections, uint32_t rotary_dim, uint32_t rows = 5) const {
    const std::vector<double> bases{640, 8192};
    const SectionShape shape = sections.kind.shape;
    const CodecInfo& codec = *find_codec(sections.kind.key_codec);
    const bool rotated = codec.space == CodecSpace::kRotated;
    std::vector<float> balance(shape.dim);
    for (uint32_t i = 0; i < shape.dim; ++i) balance[i] = 0.5F + static_cast<float>(i % 4) * 0.5F;
    std::vector<double> offsets(shape.tokens);
    for (uint32_t t = 0; t < shape.tokens; ++t) offsets[t] = t;
    const Angles token = by_pair(angles(offsets, rotary_dim / 2), rotary_dim / 2);
    const Angles base = angles(bases, rotary_dim / 2);
    const KeyRotation rotation{token.cosines.data(), token.sines.data(), base.cosines.data(),
                               base.sines.data(),    rotary_dim,         rotated ? balance.data() : nullptr};
    Tokens tokens = sections.tokens;
    if (rotated) leave_rotated_space_f64(&tokens.keys, shape.dim, balance);
    for (size_t t = 0; t < sections.token_count(); ++t) {
      turn_f64(&tokens.keys[t * shape.dim], rotary_dim / 2,
               bases[t / shape.tokens] + static_cast<double>(t % shape.tokens));
    }

    AlignedArray<float> q = queries(rows, shape.dim, 94);
    for (uint32_t r = 0; r < rows; ++r) spread_scores(tokens, q.data() + size_t{r} * shape.dim);
    State state(rows, shape.dim);
    folded(sections, {q.data(), rows, nullptr}, &state, &rotation);
    state.finish(kernels());
    // Keys pass through f32 tables of cosines and sines: a few more roundings than the other bounds.
    const double bound =
        std::max(pair_bound(codec.id, sections.kind.value_codec), 4 * kAttendErrorBoundFloat);
    for (uint32_t r = 0; r < rows; ++r) {
      const std::vector<double> query(q.data() + size_t{r} * shape.dim, q.data() + size_t{r + 1} * shape.dim);
      const Truth truth = attend_f64(query, tokens, 0, sections.token_count());
      EXPECT_LE(relative_error(state.row(r), truth.output), bound) << "row " << r;
    }
  }

 private:
  static void spread_scores(const Tokens& tokens, float* q) {
    const size_t count = tokens.keys.size() / tokens.dim;
    double sum = 0;
    double squares = 0;
    for (size_t t = 0; t < count; ++t) {
      double score = 0;
      for (uint32_t c = 0; c < tokens.dim; ++c) score += double{q[c]} * tokens.keys[t * tokens.dim + c];
      sum += score;
      squares += score * score;
    }
    const double mean = sum / static_cast<double>(count);
    const double spread = std::sqrt(squares / static_cast<double>(count) - mean * mean);
    for (uint32_t c = 0; c < tokens.dim; ++c) {
      q[c] = static_cast<float>(q[c] * 2 * std::numbers::log2e / spread);
    }
  }
};

TEST_P(AttendPreRope, RotatesKeysOnRead) {
  for (const CodecInfo& codec : kCodecs) {
    for (const auto& [shape, rotary_dim] : {std::pair{SectionShape{64, 128}, 128U},
                                            {SectionShape{64, 128}, 64U},
                                            {SectionShape{32, 96}, 96U},
                                            {SectionShape{64, 64}, 32U}}) {
      SCOPED_TRACE(std::string(codec.name) + ", " + shape_name(shape) + ", rotary " +
                   std::to_string(rotary_dim));
      expect_turned_truth(Sections(kind_of(codec.id, codec.id, shape), 2, 93), rotary_dim);
    }
  }
}

// The first block of rows turns the keys, others read them.
TEST_P(AttendPreRope, RotatesKeysForAllRowCounts) {
  for (const CodecId codec : {CodecId::kInt4, CodecId::kInt3, CodecId::kRot4, CodecId::kRot3}) {
    const Sections sections(kind_of(codec, codec, {64, 128}), 2, 98);
    for (const uint32_t rows : {1U, 2U, 3U, 4U, 8U, 11U, 130U}) {
      SCOPED_TRACE(std::string(find_codec(codec)->name) + ", " + std::to_string(rows) + " rows");
      expect_turned_truth(sections, 128, rows);
    }
  }
}

// What would take bits from a fixed point: channels that are larger than others, means far from 0, tokens
// that are larger than others, and any magnitude. In rotated space a channel is one of the Hadamard matrix.
TEST_P(AttendPreRope, RotatesKeysOfUnevenSizes) {
  const std::vector<std::pair<const char*, ShapeKeys>> shapes{
      {"channels",
       [](uint32_t dim, std::vector<float>* keys) {
         for (size_t i = 0; i < keys->size(); ++i) (*keys)[i] *= i % dim % 37 == 5 ? 30.0F : 1.0F;
       }},
      {"means",
       [](uint32_t dim, std::vector<float>* keys) {
         for (size_t i = 0; i < keys->size(); ++i) (*keys)[i] += i % dim % 11 == 3 ? 12.0F : 0.5F;
       }},
      {"tokens",
       [](uint32_t dim, std::vector<float>* keys) {
         for (size_t i = 0; i < keys->size(); ++i) (*keys)[i] *= i / dim % 9 == 2 ? 6.0F : 1.0F;
       }},
      {"one sign for a token",
       [](uint32_t dim, std::vector<float>* keys) {
         for (size_t i = 0; i < keys->size(); ++i) {
           (*keys)[i] = (*keys)[i] * 0.1F + ((*keys)[i / dim * dim] < 0 ? -2.0F : 2.0F);
         }
       }},
      {"2^60",
       [](uint32_t, std::vector<float>* keys) {
         for (float& key : *keys) key = std::ldexp(key, 60);
       }},
      {"2^-60", [](uint32_t, std::vector<float>* keys) {
         for (float& key : *keys) key = std::ldexp(key, -60);
       }}};
  for (const CodecInfo& codec : kCodecs) {
    for (const auto& [name, shape_keys] : shapes) {
      SCOPED_TRACE(std::string(codec.name) + ", " + name);
      expect_turned_truth(Sections(kind_of(codec.id, CodecId::kBf16, {64, 128}), 2, 97, shape_keys), 128);
    }
  }
}

// Sinks hold keys in the codec's space: they are rotated on read like the others.
TEST_P(AttendPreRope, RotatesSinksOnRead) {
  for (const auto& [codec, shape] : {std::pair{CodecId::kInt4, SectionShape{64, 128}},
                                     {CodecId::kRot4, SectionShape{64, 128}},
                                     {CodecId::kInt4, SectionShape{64, 64}},
                                     {CodecId::kRot4, SectionShape{64, 64}},
                                     {CodecId::kBf16, SectionShape{64, 64}}}) {
    SCOPED_TRACE(std::string(find_codec(codec)->name) + ", " + shape_name(shape));
    const bool rotated = find_codec(codec)->space == CodecSpace::kRotated;
    const Sections sections(kind_of(codec, codec, shape, 4), 1, 95);
    const std::vector<float> balance(shape.dim, 1.0F);
    std::vector<double> offsets(shape.tokens);
    for (uint32_t t = 0; t < shape.tokens; ++t) offsets[t] = t;
    const Angles token = by_pair(angles(offsets, shape.dim / 2), shape.dim / 2);
    const Angles base = angles({0.0}, shape.dim / 2);
    const KeyRotation rotation{token.cosines.data(), token.sines.data(), base.cosines.data(),
                               base.sines.data(),    shape.dim,          rotated ? balance.data() : nullptr};
    const AlignedArray<float> q = queries(2, shape.dim, 96);
    const std::vector<int32_t> first{0, 2};
    State state(2, shape.dim);
    folded(sections, {q.data(), 2, first.data()}, &state, &rotation);
    state.finish(kernels());
    Tokens tokens = sections.tokens;
    if (rotated) leave_rotated_space_f64(&tokens.keys, shape.dim, balance);
    for (uint32_t t = 0; t < shape.tokens; ++t)
      turn_f64(&tokens.keys[size_t{t} * shape.dim], shape.dim / 2, t);
    for (uint32_t r = 0; r < 2; ++r) {
      const std::vector<double> query(q.data() + size_t{r} * shape.dim, q.data() + size_t{r + 1} * shape.dim);
      const Truth truth = attend_f64(query, tokens, static_cast<size_t>(first[r]), shape.tokens);
      EXPECT_LE(relative_error(state.row(r), truth.output),
                std::max(pair_bound(codec, codec), 4 * kAttendErrorBoundFloat));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Attend, testing::ValuesIn(kIsas), isa_test_name);
INSTANTIATE_TEST_SUITE_P(Isa, AttendPreRope, testing::ValuesIn(kIsas), isa_test_name);

}  // namespace
}  // namespace quire::test
