// Sealing on the device: it folds, the host adds what it alone can: checksums, headers, and sections with
// values beyond what their codec can hold.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "kvcache/page_device.h"
#include "kvcache/seal_parts.h"
#include "quant/section_exponent.h"

namespace quire {
namespace {

// Values that had to be clamped first (FORMATS.md, Clamp): the host encodes such a section again.
bool out_of_range(CodecId codec, uint32_t param) {
  return largest_input(find_codec(codec)->family) != 0.0F &&
         static_cast<int32_t>(param) == kMaxSectionExponent;
}

// Whether the tokens of two pages lie one behind the other in the engine's tensors, or in none.
bool continues(const SealJob& a, const SealJob& b, uint32_t page_tokens) {
  if (!a.given.has_value() || !b.given.has_value()) return a.given.has_value() == b.given.has_value();
  return from_token(a.given->keys, page_tokens).data == b.given->keys.data &&
         from_token(a.given->values, page_tokens).data == b.given->values.data;
}

// Whether page b may be folded together with page a, the last of others.
bool join(const SealJob& a, const SealJob& b, uint32_t page_tokens) {
  return a.layer == b.layer && (a.page == 0) == (b.page == 0) && continues(a, b, page_tokens);
}

Status seal_batch(const CacheContext& context, std::span<const SealJob> jobs, std::span<uint8_t* const> slots,
                  std::span<SectionEntry> entries, std::span<uint8_t> digests) {
  PageDevice& device = *context.residency.device();
  const LayerConfig& layer = context.config.layer[jobs[0].layer];
  const PageLayout& layout = layer.layout_of(jobs[0].page);
  const uint32_t heads = context.config.kv_heads;
  std::vector<const float*> frames;
  for (const SealJob& job : jobs) frames.push_back(job.frame);
  const BusyTime busy(context.clock, context.counters.encode_nanoseconds);
  const TraceSpan span(context.trace, "encode", TraceCategory::kEncode, jobs[0].layer, jobs[0].page,
                       jobs.size());
  const KeysAndValues* given = jobs[0].given.has_value() ? &*jobs[0].given : nullptr;
  Result<EncodedBatch> encoded = device.encode({jobs[0].layer, jobs[0].page == 0, frames, slots, given});
  if (!encoded.ok()) return encoded.status();
  if (!digests.empty()) std::memcpy(digests.data(), encoded->digests, digests.size());
  std::atomic<bool> changed{false};
  parallel_for(context.executor, static_cast<uint32_t>(jobs.size()) * heads, [&](uint32_t i) {
    uint8_t* page = encoded->pages + i / heads * encoded->stride;
    SectionEntry& entry = entries[i];
    entry.key_param = encoded->params[2 * i];
    entry.value_param = encoded->params[2 * i + 1];
    if (out_of_range(layer.key_codec, entry.key_param) ||
        out_of_range(layer.value_codec, entry.value_param)) {
      const SealJob& job = jobs[i / heads];
      encode_section(context, job, i % heads, page, &entry);
      if (!digests.empty()) {
        std::vector<float> rows(size_t{context.config.page_tokens} * context.config.head_dim);
        digest_section(context, job.layer, job.page, i % heads, page, entry, rows.data(),
                       digests.data() + i * context.residency.digest_bytes());
      }
      changed.store(true, std::memory_order_relaxed);
      return;
    }
    const uint8_t* section = page + layout.header_bytes + size_t{i % heads} * layout.section.bytes;
    entry.checksum = section_checksum({section, layout.section.bytes}, entry.key_param, entry.value_param);
  });
  for (size_t i = 0; i < jobs.size(); ++i) {
    uint8_t* page = encoded->pages + i * encoded->stride;
    write_header(context, jobs[i], entries.subspan(i * heads, heads), page);
    const Status status = device.store(slots[i], page, changed ? layout.bytes : layout.header_bytes);
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace

Status seal_on_device(const CacheContext& context, std::span<const SealJob> jobs,
                      std::span<uint8_t* const> slots, std::span<SectionEntry> entries,
                      std::span<uint8_t> digests) {
  const size_t page_digests = context.config.kv_heads * context.residency.digest_bytes();
  const uint32_t most = context.residency.device()->encode_pages();
  const uint32_t heads = context.config.kv_heads;
  for (size_t first = 0; first < jobs.size();) {
    size_t count = 1;
    while (count < most && first + count < jobs.size() &&
           join(jobs[first + count - 1], jobs[first + count], context.config.page_tokens)) {
      ++count;
    }
    Status status = seal_batch(context, jobs.subspan(first, count), slots.subspan(first, count),
                               entries.subspan(first * heads, count * heads),
                               digests.subspan(first * page_digests, count * page_digests));
    if (!status.ok()) return status;
    first += count;
  }
  return {};
}

}  // namespace quire
