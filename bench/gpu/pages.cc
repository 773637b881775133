#include "bench/gpu/pages.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "bench/gpu/device_work.h"

namespace quire::gpu {
namespace {

constexpr uint32_t kPagesAtOnce = 128;

// Where the pages of the contexts lie in the pool: shuffled, the same on every run.
std::vector<uint32_t> shuffled(uint32_t n) {
  std::vector<uint32_t> places(n);
  std::iota(places.begin(), places.end(), 0U);
  std::mt19937 random(1);
  std::ranges::shuffle(places, random);
  return places;
}

}  // namespace

PageKind page_kind(const Bench& bench, const CodecPair& codecs) {
  return {
      codecs.key,         codecs.value, KeySpace::kPostRope, 0, static_cast<uint16_t>(bench.options.kv_heads),
      bench.options.shape};
}

FoldedPages::FoldedPages(const Bench& bench, const CodecPair& codecs, uint32_t tokens, uint32_t sets)
    : heads_(bench.options.kv_heads),
      pages_(tokens / bench.options.shape.tokens),
      layout_(page_layout(page_kind(bench, codecs))),
      format_(cuda::section_format(page_kind(bench, codecs))),
      places_(shuffled(sets * pages_)),
      pool_(places_.size() * layout_.bytes),
      refs_(fold(bench)) {}

std::vector<SectionRef> FoldedPages::fold(const Bench& bench) const {
  const SectionShape shape = bench.options.shape;
  const size_t values = size_t{kPagesAtOnce} * heads_ * shape.tokens * shape.dim;
  const DeviceMemory<float> keys(values);
  const DeviceMemory<float> tokens(values);
  std::vector<SectionRef> refs(places_.size() * heads_);
  for (uint32_t first = 0; first < places_.size(); first += kPagesAtOnce) {
    const auto count = std::min(kPagesAtOnce, static_cast<uint32_t>(places_.size()) - first);
    std::vector<uint8_t*> sections;
    for (uint32_t i = 0; i < count; ++i) {
      uint8_t* page = pool_.data() + size_t{places_[first + i]} * layout_.bytes + layout_.header_bytes;
      for (uint32_t head = 0; head < heads_; ++head)
        sections.push_back(page + size_t{head} * layout_.section.bytes);
    }
    require(fill_normal(keys.data(), values, 2 * first, bench.stream), "making keys");
    require(fill_normal(tokens.data(), values, 2 * first + 1, bench.stream), "making values");
    const DeviceMemory<uint8_t*> device_sections(sections);
    const DeviceMemory<uint32_t> params(2 * sections.size());
    require(cuda::encode_sections(
                {format_, cuda::dense_input(keys.data(), shape), cuda::dense_input(tokens.data(), shape),
                 device_sections.data(), params.data(), static_cast<uint32_t>(sections.size())},
                bench.stream),
            "encoding");
    require(cudaStreamSynchronize(bench.stream), "encoding");
    const std::vector<uint32_t> param = params.host();
    for (uint32_t i = 0; i < sections.size(); ++i) {
      const uint32_t set = (first + i / heads_) / pages_;
      const uint32_t page = (first + i / heads_) % pages_;
      refs[(size_t{set} * heads_ + i % heads_) * pages_ + page] = {sections[i], param[2 * i],
                                                                   param[2 * i + 1]};
    }
  }
  return refs;
}

}  // namespace quire::gpu
