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

std::vector<float> normal_rows(const SectionShape& shape, std::mt19937_64* random) {
  std::normal_distribution<float> normal;
  std::vector<float> rows(size_t{shape.tokens} * shape.dim);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = normal(*random) + static_cast<float>(i % 3) * 0.2F;
  return rows;
}

SectionRef encode_section(const Kernels& kernels, const PageKind& kind, const SectionLayout& at,
                          uint8_t* section, std::mt19937_64* random) {
  SectionRef ref{section, 0, 0};
  const std::vector<float> keys = normal_rows(kind.shape, random);
  const std::vector<float> values = normal_rows(kind.shape, random);
  kernels.encode_key(kind.key_codec, kind.shape, keys.data(), 0, section + at.key_codes,
                     section + at.key_meta, &ref.key_param);
  kernels.encode_value(kind.value_codec, kind.shape, values.data(), 0, section + at.value_codes,
                       section + at.value_meta, &ref.value_param);
  return ref;
}

}  // namespace

BigBuffer::BigBuffer(size_t bytes) {
  const size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* memory = std::aligned_alloc(kHugePage, rounded);
  if (memory == nullptr) throw std::bad_alloc();
  (void)madvise(memory, rounded, MADV_HUGEPAGE);  // only speed depends on it
  data_.reset(static_cast<uint8_t*>(memory));
}

FoldedHeads make_folded_heads(const Kernels& kernels, const PageKind& kind, size_t tokens, uint64_t seed) {
  const PageLayout layout = page_layout(kind);
  const size_t count = tokens / kind.shape.tokens;
  const size_t distinct = std::min(count, kDistinctPages);
  FoldedHeads made{kind, layout, BigBuffer(count * layout.bytes), {}, {}};
  std::mt19937_64 random(seed);
  std::vector<std::vector<SectionRef>> first(kind.kv_heads);
  for (size_t page = 0; page < distinct; ++page) {
    uint8_t* section = made.memory.data() + page * layout.bytes + layout.header_bytes;
    for (auto& head : first) {
      head.push_back(encode_section(kernels, kind, layout.section, section, &random));
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

double attend_error(const Kernels& kernels, const FoldedHeads& heads, std::span<const float> q,
                    size_t pages) {
  const SectionShape shape = heads.kind.shape;
  const size_t dim = shape.dim;
  const auto sections = std::span(heads.heads[0]).first(std::min(pages, heads.pages.size()));
  std::vector<float> o(dim);
  float m = -HUGE_VALF;
  float l = 0;
  const size_t scratch_bytes = kernels.attend_scratch_bytes(1, shape);
  const BigBuffer scratch(scratch_bytes);
  kernels.attend_folded(heads.folded(), sections, {q.data(), 1, nullptr}, {o.data(), &m, &l}, scratch.data());
  kernels.finish({o.data(), &m, &l}, 1, shape.dim, nullptr);

  std::vector<double> scores;
  std::vector<float> values;
  std::vector<float> decoded(shape.tokens * dim);
  const SectionLayout& at = heads.layout.section;
  for (const SectionRef& ref : sections) {
    const uint8_t* s = ref.section;
    kernels.decode_key(heads.kind.key_codec, shape, {s + at.key_codes, s + at.key_meta, ref.key_param},
                       decoded.data());
    for (size_t t = 0; t < shape.tokens; ++t) {
      scores.push_back(std::inner_product(q.begin(), q.end(),
                                          decoded.begin() + static_cast<ptrdiff_t>(t * dim), 0.0,
                                          std::plus<>(), [](float a, float b) { return double{a} * b; }));
    }
    kernels.decode_value(heads.kind.value_codec, shape,
                         {s + at.value_codes, s + at.value_meta, ref.value_param}, decoded.data());
    values.insert(values.end(), decoded.begin(), decoded.end());
  }
  const double top = *std::ranges::max_element(scores);
  std::vector<double> truth(dim);
  double sum = 0;
  for (size_t t = 0; t < scores.size(); ++t) {
    const double weight = std::exp2(scores[t] - top);
    sum += weight;
    for (size_t c = 0; c < dim; ++c) truth[c] += weight * values[t * dim + c];
  }
  double error = 0;
  double norm = 0;
  for (size_t c = 0; c < dim; ++c) {
    error += std::pow(truth[c] / sum - o[c], 2);
    norm += std::pow(truth[c] / sum, 2);
  }
  return std::sqrt(error / norm);
}

}  // namespace quire::micro
