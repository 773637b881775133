#include "bench/micro/folded_heads.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <numeric>
#include <random>

namespace quire::micro {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kDistinctPages = 64;
constexpr double kRopeBase = 1e6;

std::vector<float> normal_rows(size_t count, std::mt19937_64* random) {
  std::normal_distribution<float> normal;
  std::vector<float> rows(count);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = normal(*random) + static_cast<float>(i % 3) * 0.2F;
  return rows;
}

SectionRef encode_section(const Kernels& kernels, const FoldedHeads& heads, uint8_t* section,
                          std::mt19937_64* random) {
  const PageKind& kind = heads.kind;
  const SectionLayout& at = heads.layout.section;
  SectionRef ref{section, 0, 0};
  const size_t count = size_t{kind.shape.tokens} * kind.shape.dim;
  std::vector<float> keys = normal_rows(count, random);
  const std::vector<float> values = normal_rows(count, random);
  if (!heads.angles.balance.empty()) {
    kernels.rotate(keys.data(), kind.shape.tokens, kind.shape.dim, heads.angles.balance.data(), keys.data());
  }
  kernels.encode_key(kind.key_codec, kind.shape, keys.data(), 0, section + at.key_codes,
                     section + at.key_meta, &ref.key_param);
  kernels.encode_value(kind.value_codec, kind.shape, values.data(), 0, section + at.value_codes,
                       section + at.value_meta, &ref.value_param);
  return ref;
}

void append_angles(size_t position, uint32_t half, std::vector<float>* cosines, std::vector<float>* sines) {
  for (uint32_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * inverse_frequency(i, half);
    cosines->push_back(static_cast<float>(std::cos(angle)));
    sines->push_back(static_cast<float>(std::sin(angle)));
  }
}

PageAngles make_angles(const PageKind& kind, size_t pages) {
  PageAngles angles{};
  if (kind.key_space != KeySpace::kPreRope) return angles;
  angles.half = kind.shape.dim / 2;
  for (uint32_t i = 0; i < angles.half; ++i) {
    for (uint32_t t = 0; t < kind.shape.tokens; ++t) {
      const double angle = t * inverse_frequency(i, angles.half);
      angles.token_cos.push_back(static_cast<float>(std::cos(angle)));
      angles.token_sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  for (size_t page = 0; page < pages; ++page) {
    append_angles(page * kind.shape.tokens, angles.half, &angles.base_cos, &angles.base_sin);
  }
  if (find_codec(kind.key_codec)->space == CodecSpace::kRotated) {
    for (uint32_t c = 0; c < kind.shape.dim; ++c)
      angles.balance.push_back(c % angles.half % 2 == 0 ? 0.8F : 1.25F);
  }
  return angles;
}

}  // namespace

BigBuffer::BigBuffer(size_t bytes) {
  const size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* memory = std::aligned_alloc(kHugePage, rounded);
  if (memory == nullptr) throw std::bad_alloc();
  (void)madvise(memory, rounded, MADV_HUGEPAGE);  // only speed depends on it
  data_.reset(static_cast<uint8_t*>(memory));
}

KeyRotation PageAngles::from(size_t page) const {
  return {token_cos.data(),
          token_sin.data(),
          base_cos.data() + page * half,
          base_sin.data() + page * half,
          2 * half,
          balance.empty() ? nullptr : balance.data()};
}

double inverse_frequency(uint32_t i, uint32_t half) {
  return std::pow(kRopeBase, -static_cast<double>(i) / half);
}

std::vector<float> make_normal_rows(size_t count) {
  std::mt19937_64 random(11);
  return normal_rows(count, &random);
}

FoldedHeads make_folded_heads(const Kernels& kernels, const PageKind& kind, size_t tokens, uint64_t seed) {
  const PageLayout layout = page_layout(kind);
  const size_t count = tokens / kind.shape.tokens;
  const size_t distinct = std::min(count, kDistinctPages);
  FoldedHeads made{kind, layout, BigBuffer(count * layout.bytes), {}, {}, make_angles(kind, count)};
  std::mt19937_64 random(seed);
  std::vector<std::vector<SectionRef>> first(kind.kv_heads);
  for (size_t page = 0; page < distinct; ++page) {
    uint8_t* section = made.memory.data() + page * layout.bytes + layout.header_bytes;
    for (auto& head : first) {
      head.push_back(encode_section(kernels, made, section, &random));
      section += layout.section.bytes;
    }
  }
  for (size_t page = distinct; page < count; ++page) {
    std::memcpy(made.memory.data() + page * layout.bytes, made.memory.data() + page % distinct * layout.bytes,
                layout.bytes);
  }
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::shuffle(order, random);
  made.heads.resize(kind.kv_heads);
  for (const size_t page : order) {
    const uint8_t* at = made.memory.data() + page * layout.bytes;
    made.pages.push_back(at);
    for (size_t head = 0; head < kind.kv_heads; ++head) {
      const SectionRef& model = first[head][page % distinct];
      made.heads[head].push_back(
          {at + layout.header_bytes + head * layout.section.bytes, model.key_param, model.value_param});
    }
  }
  return made;
}

}  // namespace quire::micro
