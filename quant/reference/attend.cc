#include "quant/reference/attend.h"

#include <algorithm>
#include <cmath>

#include "quant/bytes.h"
#include "quant/half.h"
#include "quant/reference/codecs.h"
#include "quant/reference/key_rotation.h"

namespace quire::reference {
namespace {

constexpr uint32_t kMaxTokens = 128;

// Cut out of the caller's scratch.
struct Scratch {
  double* scores;  // [kMaxTokens]
  float* keys;     // [T][D]
  float* values;   // [T][D]
  float* query;    // [D]
};

Scratch cut_scratch(uint8_t* bytes, SectionShape shape) {
  const size_t section = size_t{shape.tokens} * shape.dim;
  auto* scores = reinterpret_cast<double*>(bytes);
  auto* keys = reinterpret_cast<float*>(bytes + kMaxTokens * sizeof(double));
  return {scores, keys, keys + section, keys + 2 * section};
}

struct TokenRange {
  uint32_t begin;
  uint32_t end;
};

// One row of a state: the unnormalised output, the largest score and the sum of weights.
struct RowState {
  float* o;
  float* m;
  float* l;
};

RowState row_state(const AttendState& state, uint32_t row, uint32_t dim) {
  return {state.o + size_t{row} * dim, state.m + row, state.l + row};
}

// Scores are summed in f64, so that the oracle's error is that of the weights and the output alone.
double dot(const float* a, const float* b, uint32_t dim) {
  double sum = 0.0;
  for (uint32_t i = 0; i < dim; ++i) sum += double{a[i]} * double{b[i]};
  return sum;
}

void rescale(const RowState& row, uint32_t dim, float m) {
  const float keep = std::exp2(*row.m - m);
  for (uint32_t channel = 0; channel < dim; ++channel) row.o[channel] *= keep;
  *row.l *= keep;
  *row.m = m;
}

// Continues one row over the tokens of `range`. keys and values: [tokens][dim].
void attend_row(const float* query, const float* keys, const float* values, uint32_t dim, TokenRange range,
                const RowState& row, double* scores) {
  if (range.begin >= range.end) return;
  float m = *row.m;
  for (uint32_t token = range.begin; token < range.end; ++token) {
    scores[token] = dot(query, keys + size_t{token} * dim, dim);
    m = std::max(m, static_cast<float>(scores[token]));
  }
  rescale(row, dim, m);
  for (uint32_t token = range.begin; token < range.end; ++token) {
    const auto weight = static_cast<float>(std::exp2(scores[token] - double{m}));
    const float* value = values + size_t{token} * dim;
    *row.l += weight;
    for (uint32_t channel = 0; channel < dim; ++channel) row.o[channel] += weight * value[channel];
  }
}

void load_bf16(const uint8_t* bytes, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = bf16_to_f32(load_le<uint16_t>(bytes + 2 * i));
}

// Keys and values of a section as attention sees them: sinks stand in for the tokens that codes leave out.
void unfold_section(const FoldedPages& pages, const SectionRef& ref, const Scratch& scratch) {
  const SectionLayout& layout = pages.layout;
  decode_side(pages.key_codec, Side::kKey, pages.shape,
              {ref.section + layout.key_codes, ref.section + layout.key_meta, ref.key_param}, scratch.keys);
  decode_side(pages.value_codec, Side::kValue, pages.shape,
              {ref.section + layout.value_codes, ref.section + layout.value_meta, ref.value_param},
              scratch.values);
  const size_t sink_values = size_t{pages.sink_tokens} * pages.shape.dim;
  load_bf16(ref.section + layout.sink_keys, sink_values, scratch.keys);
  load_bf16(ref.section + layout.sink_values, sink_values, scratch.values);
  if (pages.rotation != nullptr) rotate_keys(*pages.rotation, pages.shape, scratch.keys);
}

uint32_t first_visible(const QueryTile& tile, size_t section, uint32_t row) {
  if (section != 0 || tile.first_token == nullptr) return 0;
  return static_cast<uint32_t>(std::max(tile.first_token[row], 0));
}

}  // namespace

size_t attend_scratch_bytes(uint32_t /*rows*/, SectionShape shape) {
  const size_t floats = (size_t{2} * shape.tokens + 1) * shape.dim;
  return align_up(static_cast<uint32_t>(kMaxTokens * sizeof(double) + floats * sizeof(float)), kPageAlign);
}

void attend_folded(const FoldedPages& pages, std::span<const SectionRef> sections, const QueryTile& tile,
                   const AttendState& state, uint8_t* scratch_bytes) {
  const Scratch scratch = cut_scratch(scratch_bytes, pages.shape);
  const uint32_t dim = pages.shape.dim;
  for (size_t section = 0; section < sections.size(); ++section) {
    unfold_section(pages, sections[section], scratch);
    for (uint32_t row = 0; row < tile.rows; ++row) {
      const float* query = tile.q + size_t{row} * dim;
      if (pages.rotation != nullptr) {
        unrotate_query(*pages.rotation, section, dim, query, scratch.query);
        query = scratch.query;
      }
      attend_row(query, scratch.keys, scratch.values, dim,
                 {first_visible(tile, section, row), pages.shape.tokens}, row_state(state, row, dim),
                 scratch.scores);
    }
  }
}

void attend_unfolded(const UnfoldedRows& unfolded, const QueryTile& tile, uint32_t dim,
                     const AttendState& state, uint8_t* scratch_bytes) {
  auto* scores = reinterpret_cast<double*>(scratch_bytes);
  for (uint32_t row = 0; row < tile.rows; ++row) {
    const int32_t begin = std::max(unfolded.begin[row], 0);
    const int32_t end = std::min(unfolded.end[row], static_cast<int32_t>(unfolded.tokens));
    if (begin >= end) continue;
    attend_row(tile.q + size_t{row} * dim, unfolded.keys, unfolded.values, dim,
               {static_cast<uint32_t>(begin), static_cast<uint32_t>(end)}, row_state(state, row, dim),
               scores);
  }
}

}  // namespace quire::reference
