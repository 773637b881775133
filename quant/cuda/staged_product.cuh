// Products of 8-bit operands with staged codes, by blocks of 32 (along the reduction) by 32 lanes.
#pragma once

#include "quant/cuda/nuq_tables.cuh"
#include "quant/cuda/staged_form.cuh"
#include "quant/cuda/trellis_operands.cuh"

namespace quire::cuda {

// What turns codes into operands. nothing: a 0 that the compiler does not know of. It would fetch constants
// anew for every instruction that takes more than one, and the loop would be half as long again.
//
// Sixteen levels are sums of two bytes that prmt finds in one step each: a nibble's highest bit makes prmt
// repeat the sign of the byte it selects. The first byte is of codes below 8, the second, with that bit
// turned round, of those above; each is made so that with the other's sign, 0 or -1, it comes to the level
// less one, which the other operand's sum makes good.
template <CodecId kId>
struct LevelWords {
  uint32_t low[2];
  uint32_t high[2];
  TrellisTable table;    // of a trellis
  const int8_t* stored;  // [16] in shared memory, of a layer's own levels: words are from there
};
constexpr bool is_sum_of_two(CodecId id) { return looked_up(id) && bits_of(id) == 4; }

// The bytes of codes j and j + 8, whose levels are these.
struct LevelPair {
  int low;
  int high;
};
constexpr LevelPair level_pair(int low, int high) {
  if (low > 0) return {low - 1, high - 1};  // both signs are 0
  return {high < 0 ? low : low - 1, high};  // the first byte's is -1
}
// Byte i of sixteen. level(i): level i of the codec, ascending within -127..127.
template <CodecId kId, typename LevelOf>
constexpr int level_byte(LevelOf level, uint32_t i) {
  if constexpr (is_sum_of_two(kId)) {
    const LevelPair pair = level_pair(level(i % 8), level(i % 8 + 8));
    return i < 8 ? pair.low : pair.high;
  } else {
    return i < 1U << bits_of(kId) ? level(i) : 0;
  }
}
template <CodecId kId>
constexpr uint32_t level_word(uint32_t first) {
  const auto level = [](uint32_t i) { return int{level_table(bits_of(kId)).levels[i]}; };
  uint32_t word = 0;
  for (uint32_t i = 0; i < 4; ++i) {
    word |= uint32_t{static_cast<uint8_t>(level_byte<kId>(level, first + i))} << (8 * i);
  }
  return word;
}

// Byte i of a codec's table in shared memory.
template <CodecId kId>
__device__ __forceinline__ int8_t stored_level(const SectionFormat& format, Side side, uint32_t i) {
  if constexpr (is_trellis(kId)) return kTrellisTables.levels[bits_of(kId) - 1][i];
  if constexpr (is_nonuniform(kId)) {
    const auto level = [&](uint32_t code) { return int{nuq_level(format, side, code)}; };
    return static_cast<int8_t>(level_byte<kId>(level, i));
  }
  return 0;
}

template <CodecId kId>
__device__ __forceinline__ LevelWords<kId> level_words(uint32_t nothing, const int8_t* table) {
  LevelWords<kId> words{};
  words.stored = table;
  if constexpr (is_trellis(kId)) words.table = {table, (1U << 8) + nothing, (1U << 16) + nothing};
  if constexpr (is_rotated(kId)) {
    constexpr uint32_t kWords[4] = {level_word<kId>(0), level_word<kId>(4), level_word<kId>(8),
                                    level_word<kId>(12)};
    for (int i = 0; i < 2; ++i) {
      words.low[i] = kWords[i] + nothing;
      words.high[i] = kWords[2 + i] + nothing;
    }
  }
  return words;
}

// The same registers where the other side has the same levels.
template <CodecId kId, CodecId kOther>
__device__ __forceinline__ LevelWords<kId> level_words_beside(const LevelWords<kOther>& other,
                                                              uint32_t nothing, const int8_t* table) {
  if constexpr (kId == kOther && !is_nonuniform(kId)) {
    return other;
  } else {
    return level_words<kId>(nothing, table);
  }
}

// As they are needed at one side of a section: a layer's own do not stay in registers.
template <CodecId kId>
__device__ __forceinline__ LevelWords<kId> fetch_levels(const LevelWords<kId>& words) {
  if constexpr (is_nonuniform(kId)) {
    const auto four = load_as<uint4>(words.stored);
    return {{four.x, four.y}, {four.z, four.w}, {}, words.stored};
  } else {
    return words;
  }
}

// What every operand of a code is short of its level or, for uniform codes, of its distance from the centre,
// negated.
template <CodecId kId>
constexpr int staged_centre() {
  return is_sum_of_two(kId) ? -1 : value_centre<kId>();
}

// A thread's words of a block: `low` of the first plane; `high` of the second one of 3-bit codes, and of the
// odd quads of 8-bit codes.
struct StagedWords {
  uint4 low;
  uint4 high;
};

// Where a thread reads a staged code array. Rows of a block mix other bits of an address than a thread's own.
template <CodecId kId, uint32_t kReduction, uint32_t kLanes>
class StagedCodes {
 public:
  __device__ __forceinline__ StagedCodes(const uint8_t* codes, Lane at, const LevelWords<kId>&)
      : codes_(codes) {
    const uint32_t row = kBits == 8 ? 2 * at.i : kBits == 4 ? at.i : at.i / 2;
    mine_ = (row * kLanes + 4 * at.g) * 4 ^ row_mix<kBits>(row);
    high_ = 16 * at.g;
  }
  // Block `block` along the reduction, lanes from `lane` on: a multiple of 32.
  __device__ __forceinline__ StagedWords load(uint32_t block, uint32_t lane) const {
    StagedWords words{};
    const uint32_t row = kRowsOfBlock * block;
    words.low = at(row * kLanes * 4 + lane * 4, mine_ ^ row_mix<kBits>(row));
    if constexpr (kBits == 8) words.high = at((row + 1) * kLanes * 4 + lane * 4, mine_);
    if constexpr (kBits == 3) {
      // The upper plane is copied as if it were more rows of the lower one.
      const uint32_t upper = kReduction / 16 + block;
      words.high = at(upper * kLanes * 4 + lane * 4, high_ ^ row_mix<kBits>(upper));
    }
    return words;
  }

 private:
  static constexpr uint32_t kBits = bits_of(kId);
  static constexpr uint32_t kRowsOfBlock = kBits == 8 ? 8 : kBits == 4 ? 4 : 2;
  __device__ __forceinline__ uint4 at(uint32_t offset, uint32_t of_thread) const {
    return load_as<uint4>(codes_ + of_thread + offset);
  }
  const uint8_t* codes_;
  uint32_t mine_;
  uint32_t high_;
};

// The same of a trellis, whose words are of use with those before them only: what is loaded are operands.
template <CodecId kId, uint32_t kReduction, uint32_t kLanes>
class StagedTrellis {
 public:
  __device__ __forceinline__ StagedTrellis(const uint8_t* codes, Lane at, const LevelWords<kId>& levels)
      : codes_(codes), table_(levels.table), at_(at) {}
  __device__ __forceinline__ Operands load(uint32_t block, uint32_t lane) const {
    return unpack_trellis<bits_of(kId)>(PackedCodes{codes_, kLanes, kReduction}, table_, block, lane, at_);
  }

 private:
  static_assert(row_mix<bits_of(kId)>(1) == 32, "PackedCodes mixes rows in this way");
  const uint8_t* codes_;
  TrellisTable table_;
  Lane at_;
};
template <CodecId kId, uint32_t kReduction, uint32_t kLanes>
using StagedArray = std::conditional_t<is_trellis(kId), StagedTrellis<kId, kReduction, kLanes>,
                                       StagedCodes<kId, kReduction, kLanes>>;

// sums[tile] = a[tile] * b for one n-tile, plus the sums unless kFresh. Sign: of a.
template <typename Sign, bool kFresh, typename BSign, int kTiles>
__device__ __forceinline__ void multiply_tiles(BSign b_sign, const uint32_t (&a)[kTiles][4],
                                               const uint32_t (&b)[2], int t, int (&sums)[kTiles][4][4]) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    if constexpr (kFresh) {
      const int from[4] = {0, 0, 0, 0};
      mma_bytes(Sign{}, b_sign, sums[tile][t], a[tile], b, from);
    } else {
      mma_bytes(Sign{}, b_sign, sums[tile][t], a[tile], b);
    }
  }
}

template <CodecId kId, typename Sign, bool kFresh, int kTiles>
__device__ __forceinline__ void multiply_staged(const Operands& operands, const LevelWords<kId>&,
                                                const uint32_t (&a)[kTiles][4], uint32_t,
                                                int (&sums)[kTiles][4][4]) {
#pragma unroll
  for (int t = 0; t < 4; ++t) multiply_tiles<Sign, kFresh>(SignedBytes{}, a, operands.b[t], t, sums);
}

// sums[tile][t] = a[tile] * codes for the four n-tiles t, plus the sums unless kFresh. Sign: of a.
template <CodecId kId, typename Sign, bool kFresh, int kTiles>
__device__ __forceinline__ void multiply_staged(const StagedWords& words, const LevelWords<kId>& levels,
                                                const uint32_t (&a)[kTiles][4], uint32_t i,
                                                int (&sums)[kTiles][4][4]) {
  constexpr uint32_t kBits = bits_of(kId);
  const uint32_t lows[4] = {words.low.x, words.low.y, words.low.z, words.low.w};
  const uint32_t highs[4] = {words.high.x, words.high.y, words.high.z, words.high.w};
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    uint32_t b[2];
    if constexpr (is_sum_of_two(kId)) {
      const uint32_t word = lows[t];
      const uint32_t turned = word ^ 0x88888888U;
      const uint32_t positive[2] = {permute_bytes(levels.high[0], levels.high[1], turned),
                                    permute_bytes(levels.high[0], levels.high[1], turned >> 16)};
      multiply_tiles<Sign, kFresh>(SignedBytes{}, a, positive, t, sums);
      b[0] = permute_bytes(levels.low[0], levels.low[1], word);
      b[1] = permute_bytes(levels.low[0], levels.low[1], word >> 16);
      multiply_tiles<Sign, false>(SignedBytes{}, a, b, t, sums);
      continue;
    } else if constexpr (kBits == 8) {
      b[0] = lows[t] ^ 0x80808080U;
      b[1] = highs[t] ^ 0x80808080U;
    } else {
      const uint32_t word = nibbles<kBits>(lows[t], highs[t], i);
      if constexpr (looked_up(kId)) {
        b[0] = permute_bytes(levels.low[0], levels.low[1], word);
        b[1] = permute_bytes(levels.low[0], levels.low[1], word >> 16);
      } else {
        b[0] = word & 0x0F0F0F0FU;
        b[1] = word >> 4 & 0x0F0F0F0FU;
      }
    }
    multiply_tiles<Sign, kFresh>(OperandSign<kId>{}, a, b, t, sums);
  }
}

}  // namespace quire::cuda
