// The working memory of one attend call, carved from the caller's scratch, and the shapes kernels know.
// Thread safety: pure functions on the caller's memory.
#pragma once

#include "quant/carver.h"
#include "quant/cpu/pack-inl.h"
#include "quant/cpu/rows-inl.h"
#include "quant/cpu/section-inl.h"
#include "quant/cpu/unpack-inl.h"
#include "quant/kernels.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// The shape of most models as constants, and every other shape. kTokenStep and kDimStep divide the sizes:
// they bound how many columns of lanes a kernel takes at once.
struct CommonShape {
  static constexpr uint32_t kTokenStep = 64;
  static constexpr uint32_t kDimStep = 128;
  explicit CommonShape(SectionShape) {}
  static constexpr uint32_t tokens() { return kTokenStep; }
  static constexpr uint32_t dim() { return kDimStep; }
  static constexpr bool is(SectionShape shape) { return shape.tokens == kTokenStep && shape.dim == kDimStep; }
};
struct AnyShape {
  static constexpr uint32_t kTokenStep = 32;
  static constexpr uint32_t kDimStep = 32;
  explicit AnyShape(SectionShape shape) : shape_(shape) {}
  uint32_t tokens() const { return shape_.tokens; }
  uint32_t dim() const { return shape_.dim; }

 private:
  SectionShape shape_;
};

// Angles of a pre_rope section's base position, [half] each.
struct BaseAngles {
  const float* cosine;
  const float* sine;
  uint32_t half;
};

// What the kernels of one call work on. Rows of a block use the first `rows` rows of the row arrays.
struct Tile {
  SectionShape shape;
  const float* q;  // [rows][dim]
  float* o;        // [rows][dim]
  RowBlock* blocks;
  uint32_t block_count;
  Section section;
  Levels* key_levels;        // unpacked, [dim / 4][tokens / 16]; null where every block looks them up
  Levels* value_levels;      // unpacked, [tokens / 4][dim / 16]
  float* zeros;              // [kMaxTokens]: log2 of the token scales of values that have none
  float* scores;             // [kMaxBlockRows][tokens]: in log2 units; weights of float values
  int32_t* weight_operands;  // [kMaxBlockRows][2][tokens / 4]
  float* keys;               // [dim][tokens]: keys that are rotated while they are read
  float* turned_query;       // [kMaxBlockRows][dim]: queries for these
  BaseAngles base;           // of the section whose keys they are
  // The same in 16 bits, turn_words-inl.h.
  int32_t* turns;  // constants of the call, where `keys` would be
  TurnedLevels* turned_levels;
  int32_t* key_words;   // [dim / 2][tokens]
  int32_t* mixed;       // [dim / 2][sixteen lanes]
  int32_t* pair_scale;  // [dim / 2]: of pairs of channels, keys per channel
  int32_t* pair_mid;    // midpoints, or the mean
  float mixed_unit;     // rotated: of mixed levels
  float* pair_factor;   // [dim / 2]
  float* pair_length;   // [rows][dim / 2]
  float key_unit;       // score = key_unit * query_scale * sum of integers
  float* sink_keys;     // [kMaxSinkTokens][dim]
  float* sink_values;

  std::span<RowBlock> row_blocks() const { return {blocks, block_count}; }
};

// Rows are taken in blocks of kMaxBlockRows, the rest in blocks of smaller powers of two.
inline uint32_t next_block_rows(uint32_t rows_left) {
  uint32_t rows = kMaxBlockRows;
  while (rows > rows_left) rows /= 2;
  return rows;
}
inline uint32_t most_blocks(uint32_t rows) { return rows / kMaxBlockRows + 3; }

inline bool unpacks(SectionShape shape, uint32_t rows) {
  return CommonShape::is(shape) && rows >= kUnpackedBlocks * kMaxBlockRows;
}

inline void carve_tile(Carver& carver, SectionShape shape, uint32_t rows, Tile* tile) {
  constexpr size_t tokens = kMaxTokens;  // unfolded rows may be more than a page's
  const size_t dim = shape.dim;
  tile->shape = shape;
  Section& section = tile->section;
  section.key_token_scale = carver.take<float>(tokens);
  section.key_channel_scale = carver.take<float>(dim);
  section.key_channel_mid = carver.take<float>(dim);
  section.value_token_scale = carver.take<float>(tokens);
  section.value_token_log2 = carver.take<float>(tokens);
  section.value_mid = carver.take<float>(tokens);
  section.value_offset = carver.take<float>(dim);
  section.key_outlier_channel = carver.take<int32_t>(tokens);
  section.key_outlier = carver.take<float>(tokens);
  section.value_outlier_token = carver.take<int32_t>(dim);
  section.value_outlier = carver.take<float>(dim);
  section.key_levels = carver.take<LevelBytes>(1);
  section.value_levels = carver.take<LevelBytes>(1);
  tile->scores = carver.take<float>(kMaxBlockRows * tokens);
  tile->zeros = carver.take<float>(tokens);
  tile->weight_operands = carver.take<int32_t>(kMaxBlockRows * tokens / 2);
  tile->blocks = carver.take<RowBlock>(most_blocks(rows));
  const size_t levels = unpacks(shape, rows) ? size_t{shape.tokens} * dim / (4 * kLanes) : 0;
  tile->key_levels = carver.take<Levels>(levels);
  tile->value_levels = carver.take<Levels>(levels);
  // Products of matrices read as many rows from the last block's first as a block may have.
  int32_t* queries = carver.take<int32_t>((rows + kMaxBlockRows - 1) * dim / 2);
  tile->sink_keys = carver.take<float>(kMaxSinkTokens * dim);
  tile->sink_values = carver.take<float>(kMaxSinkTokens * dim);
  tile->keys = carver.take<float>(shape.tokens * dim);
  tile->turned_query = carver.take<float>(kMaxBlockRows * dim);
  tile->turns = reinterpret_cast<int32_t*>(tile->keys);
  tile->turned_levels = carver.take<TurnedLevels>(1);
  const size_t pairs = CommonShape::is(shape) ? dim / 2 : 0;  // no other shape is turned in 16 bits
  tile->key_words = carver.take<int32_t>(shape.tokens * pairs);
  tile->mixed = carver.take<int32_t>(pairs * kLanes);
  tile->pair_scale = carver.take<int32_t>(pairs);
  tile->pair_mid = carver.take<int32_t>(pairs);
  tile->pair_factor = carver.take<float>(pairs);
  tile->pair_length = carver.take<float>(rows * pairs);
  tile->block_count = 0;
  if (queries == nullptr) return;
  for (uint32_t row = 0; row < rows;) {
    RowBlock& block = tile->blocks[tile->block_count++];
    block.first = row;
    block.rows = next_block_rows(rows - row);
    block.query = queries + row * dim / 2;
    row += block.rows;
  }
}

inline size_t tile_bytes(uint32_t rows, SectionShape shape) {
  Carver carver(nullptr);
  Tile tile;
  carve_tile(carver, shape, rows, &tile);
  return carver.used();
}

inline Tile make_tile(const QueryTile& query, SectionShape shape, const AttendState& state,
                      uint8_t* scratch) {
  Carver carver(scratch);
  Tile tile;
  carve_tile(carver, shape, query.rows, &tile);
  fill(0.0F, kMaxTokens, tile.zeros);
  tile.q = query.q;
  tile.o = state.o;
  for (RowBlock& block : tile.row_blocks()) {
    for (uint32_t r = 0; r < kLanes; ++r) {
      const bool real = r < block.rows;
      block.m[r] = real ? state.m[block.first + r] : 0.0F;
      block.l[r] = real ? state.l[block.first + r] : 0.0F;
      block.offset[r] = 0.0F;
    }
  }
  return tile;
}

// o of a row += sum, sixteen channels at a time.
HWY_INLINE void add_to_output(Tile& tile, const RowBlock& block, int r, uint32_t channel, Floats sum) {
  float* at = tile.o + (size_t{block.first} + static_cast<uint32_t>(r)) * tile.shape.dim + channel;
  store(load(at) + sum, at);
}

inline void store_state(Tile& tile, const AttendState& state) {
  for (const RowBlock& block : tile.row_blocks()) {
    for (uint32_t r = 0; r < block.rows; ++r) {
      if (tile.section.value_offset == nullptr) {
        for (uint32_t c = 0; c < tile.shape.dim; c += kLanes) {
          add_to_output(tile, block, static_cast<int>(r), c, splat(block.offset[r]));
        }
      }
      state.m[block.first + r] = block.l[r] == 0.0F ? -HUGE_VALF : block.m[r];  // a row that saw nothing
      state.l[block.first + r] = block.l[r];
    }
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
