#include "bench/qwen3/gguf_blocks.h"

#include <array>
#include <bit>
#include <cstring>

#include "bench/qwen3/float16.h"

static_assert(std::endian::native == std::endian::little, "GGUF files are little endian");

namespace quire::qwen3 {
namespace {

constexpr uint32_t kSmallBlock = 32;
constexpr uint32_t kSuperBlock = 256;

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

float load_f16(const std::byte* from) { return f16_to_f32(load<uint16_t>(from)); }

int low_nibble(std::byte b) { return std::to_integer<int>(b & std::byte{15}); }
int high_nibble(std::byte b) { return std::to_integer<int>(b >> 4); }

void unfold_f32(const std::byte* block, float* out) { *out = load<float>(block); }
void unfold_f16(const std::byte* block, float* out) { *out = load_f16(block); }
void unfold_bf16(const std::byte* block, float* out) { *out = bf16_to_f32(load<uint16_t>(block)); }

// f16 scale, 16 bytes: byte i holds values i (low nibble) and i + 16. value = scale * (code - 8)
void unfold_q4_0(const std::byte* block, float* out) {
  const float scale = load_f16(block);
  const std::byte* codes = block + 2;
  for (uint32_t i = 0; i < kSmallBlock / 2; ++i) {
    out[i] = scale * static_cast<float>(low_nibble(codes[i]) - 8);
    out[i + kSmallBlock / 2] = scale * static_cast<float>(high_nibble(codes[i]) - 8);
  }
}

// f16 scale, f16 minimum, codes as above. value = scale * code + minimum
void unfold_q4_1(const std::byte* block, float* out) {
  const float scale = load_f16(block);
  const float minimum = load_f16(block + 2);
  const std::byte* codes = block + 4;
  for (uint32_t i = 0; i < kSmallBlock / 2; ++i) {
    out[i] = scale * static_cast<float>(low_nibble(codes[i])) + minimum;
    out[i + kSmallBlock / 2] = scale * static_cast<float>(high_nibble(codes[i])) + minimum;
  }
}

// f16 scale, 32 signed bytes.
void unfold_q8_0(const std::byte* block, float* out) {
  const float scale = load_f16(block);
  for (uint32_t i = 0; i < kSmallBlock; ++i) out[i] = scale * static_cast<float>(load<int8_t>(block + 2 + i));
}

// 128 bytes of low nibbles, 64 of two high bits, 16 signed scales of 16 values each, an f16 scale of all.
// In each half of 128 values, quarter q of 32 has its low bits in bytes 32 (q % 2) and on, in the nibble q /
// 2, and its high bits in field q of the 32 bytes. value = scale * group scale * (code - 32)
void unfold_q6_k(const std::byte* block, float* out) {
  const std::byte* low = block;
  const std::byte* high = block + kSuperBlock / 2;
  const std::byte* scales = high + kSuperBlock / 4;
  const float scale = load_f16(scales + kSuperBlock / 16);
  for (uint32_t i = 0; i < kSuperBlock; ++i) {
    const uint32_t half = i / 128;
    const uint32_t quarter = i % 128 / 32;
    const uint32_t lane = i % 32;
    const std::byte nibbles = low[64 * half + 32 * (quarter % 2) + lane];
    const std::byte fields = high[32 * half + lane];
    const int code = (quarter < 2 ? low_nibble(nibbles) : high_nibble(nibbles)) |
                     std::to_integer<int>(fields >> (2 * quarter) & std::byte{3}) << 4;
    out[i] = scale * static_cast<float>(load<int8_t>(scales + i / 16)) * static_cast<float>(code - 32);
  }
}

constexpr std::array<BlockType, 7> kBlockTypes{{
    {0, "F32", 1, 4, unfold_f32},
    {1, "F16", 1, 2, unfold_f16},
    {2, "Q4_0", kSmallBlock, 18, unfold_q4_0},
    {3, "Q4_1", kSmallBlock, 20, unfold_q4_1},
    {8, "Q8_0", kSmallBlock, 34, unfold_q8_0},
    {14, "Q6_K", kSuperBlock, 210, unfold_q6_k},
    {30, "BF16", 1, 2, unfold_bf16},
}};

}  // namespace

const BlockType* find_block_type(uint32_t id) {
  for (const BlockType& type : kBlockTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

void unfold(const BlockType& type, std::span<const std::byte> blocks, std::span<float> out) {
  for (size_t i = 0; i < blocks.size() / type.bytes; ++i) {
    type.unfold(blocks.data() + i * type.bytes, out.data() + i * type.values);
  }
}

}  // namespace quire::qwen3
