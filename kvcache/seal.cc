#include "kvcache/seal.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "kvcache/seal_parts.h"
#include "quant/digest.h"
#include "quant/section_exponent.h"

namespace quire {
namespace {

// Rows [0, sinks) of one side as bf16.
void write_sinks(const Kernels& kernels, const float* rows, uint32_t sinks, uint32_t dim, uint8_t* out) {
  kernels.f32_to_bf16(rows, size_t{sinks} * dim, reinterpret_cast<uint16_t*>(out));
}

using EncodeSide = decltype(Kernels::encode_key);

// Codecs are handed nothing above what they can decode to finite values (FORMATS.md, Clamp). Only a section
// with the largest exponent there is can hold more: it alone is clamped, and encoded again.
void encode_side(EncodeSide encode, SideCodec codec, SectionShape shape, const float* rows, uint32_t sinks,
                 uint8_t* codes, uint8_t* meta, uint32_t* param) {
  encode(codec, shape, rows, sinks, codes, meta, param);
  const float largest = largest_input(find_codec(codec.id)->family);
  if (largest == 0.0F || static_cast<int32_t>(*param) != kMaxSectionExponent) return;
  std::vector<float> clamped(rows, rows + size_t{shape.tokens} * shape.dim);
  for (float& x : clamped) x = std::clamp(x, -largest, largest);
  encode(codec, shape, clamped.data(), sinks, codes, meta, param);
}

float* digest_rows(const CacheContext& context, uint32_t lane) {
  return context.seal_work + size_t{lane} * context.config.page_tokens * context.config.head_dim;
}

// A sealed page of another rope epoch belongs to forks that keep that epoch: it is replaced, not changed.
Status publish_page(const CacheContext& context, const SealJob& job, uint8_t* slot,
                    std::span<const SectionEntry> entries, std::span<const uint8_t> digests) {
  Residency& residency = context.residency;
  const uint32_t bytes = context.config.layer[job.layer].layout_of(job.page).bytes;
  const uint32_t epoch = context.config.page_epoch(job.sequence->rope.epoch);
  ResidencyLock lock = residency.lock();
  PageTable* table = job.sequence->layers[job.layer].table;
  Status status;
  if (job.page == table->pages.size()) {
    status = residency.publish(lock, table, slot, bytes, epoch, entries);
  } else if (Page* page = table->pages[job.page]; page->lost()) {
    residency.restore(lock, page, slot, epoch, entries);
  } else {
    status = residency.replace(lock, table, job.page, slot, bytes, epoch, entries);
  }
  if (status.ok()) std::copy(digests.begin(), digests.end(), table->pages[job.page]->digests);
  return status;
}

// entries: [jobs][kv_heads]; digests: as many, or empty.
void seal_on_host(const CacheContext& context, std::span<const SealJob> jobs, std::span<uint8_t* const> slots,
                  std::span<SectionEntry> entries, std::span<uint8_t> digests) {
  const uint32_t heads = context.config.kv_heads;
  const size_t digest_bytes = context.residency.digest_bytes();
  const auto units = static_cast<uint32_t>(entries.size());
  std::atomic<uint32_t> next{0};
  parallel_for(context.executor, std::min(units, context.executor.threads()), [&](uint32_t lane) {
    float* rows = digest_bytes == 0 ? nullptr : digest_rows(context, lane);
    for (uint32_t i = next.fetch_add(1); i < units; i = next.fetch_add(1)) {
      const SealJob& job = jobs[i / heads];
      encode_section(context, job, i % heads, slots[i / heads], &entries[i]);
      if (digest_bytes == 0) continue;
      digest_section(context, job.layer, job.page, i % heads, slots[i / heads], entries[i], rows,
                     digests.data() + i * digest_bytes);
    }
  });
  for (size_t i = 0; i < jobs.size(); ++i) {
    write_header(context, jobs[i], entries.subspan(i * heads, heads), slots[i]);
  }
}

void free_slots(const CacheContext& context, std::span<const SealJob> jobs, std::span<uint8_t* const> slots) {
  ResidencyLock lock = context.residency.lock();
  for (size_t i = 0; i < slots.size(); ++i) {
    context.residency.free_slot(lock, context.residency.seal_tier(), slots[i],
                                context.config.layer[jobs[i].layer].layout_of(jobs[i].page).bytes);
  }
}

Result<std::vector<uint8_t*>> allocate_slots(const CacheContext& context, std::span<const SealJob> jobs) {
  std::vector<uint8_t*> slots;
  slots.reserve(jobs.size());
  ResidencyLock lock = context.residency.lock();
  for (const SealJob& job : jobs) {
    PageTable* table = job.sequence->layers[job.layer].table;
    const Status status = context.residency.reserve(lock, table, size_t{job.page} + 1, jobs.size());
    if (!status.ok()) return status;
  }
  for (const SealJob& job : jobs) {
    const uint32_t bytes = context.config.layer[job.layer].layout_of(job.page).bytes;
    Result<uint8_t*> slot = context.residency.new_slot(lock, bytes);
    if (!slot.ok()) {
      lock.unlock();
      free_slots(context, jobs, slots);
      return slot.status();
    }
    slots.push_back(*slot);
  }
  return slots;
}

}  // namespace

void encode_section(const CacheContext& context, const SealJob& job, uint32_t head, uint8_t* page,
                    SectionEntry* entry) {
  const CacheConfig& config = context.config;
  const LayerConfig& layer = config.layer[job.layer];
  const PageLayout& layout = layer.layout_of(job.page);
  const SectionLayout& at = layout.section;
  const uint32_t sinks = layer.kind_of(job.page).sink_tokens;
  uint8_t* section = page + layout.header_bytes + size_t{head} * at.bytes;
  const float* keys = job.frame + size_t{head} * config.page_tokens * config.head_dim;
  const float* values = keys + config.frame_side_floats();
  const uint32_t sink_bytes = sinks * config.head_dim * 2;

  const BusyTime busy(context.clock, context.counters.encode_nanoseconds);
  const TraceSpan span(context.trace, "encode", TraceCategory::kEncode, job.layer, job.page, 1);
  encode_side(context.kernels.encode_key, layer.key_side(), config.shape(), keys, sinks,
              section + at.key_codes, section + at.key_meta, &entry->key_param);
  encode_side(context.kernels.encode_value, layer.value_side(), config.shape(), values, sinks,
              section + at.value_codes, section + at.value_meta, &entry->value_param);
  write_sinks(context.kernels, keys, sinks, config.head_dim, section + at.sink_keys);
  write_sinks(context.kernels, values, sinks, config.head_dim, section + at.sink_values);
  std::memset(section + at.sink_values + sink_bytes, 0, at.bytes - at.sink_values - sink_bytes);
  entry->checksum = section_checksum({section, at.bytes}, entry->key_param, entry->value_param);
}

void digest_section(const CacheContext& context, uint32_t layer_index, uint32_t page_index, uint32_t head,
                    const uint8_t* page, const SectionEntry& entry, float* rows, uint8_t* digest) {
  const CacheConfig& config = context.config;
  const LayerConfig& layer = config.layer[layer_index];
  const PageLayout& layout = layer.layout_of(page_index);
  const uint8_t* section = page + layout.header_bytes + size_t{head} * layout.section.bytes;
  const SideView keys{section + layout.section.key_codes, section + layout.section.key_meta, entry.key_param};
  context.kernels.decode_key(layer.key_side(), config.shape(), keys, rows);
  const auto* sinks = reinterpret_cast<const uint16_t*>(section + layout.section.sink_keys);
  context.kernels.bf16_to_f32(sinks, size_t{layer.kind_of(page_index).sink_tokens} * config.head_dim, rows);
  context.kernels.make_digest(rows, config.shape(), digest);
}

void write_header(const CacheContext& context, const SealJob& job, std::span<const SectionEntry> entries,
                  uint8_t* page) {
  const LayerConfig& layer = context.config.layer[job.layer];
  PageHeader header{};
  header.kind = layer.kind_of(job.page);
  header.token_count = static_cast<uint8_t>(context.config.page_tokens);
  header.rope_epoch = context.config.page_epoch(job.sequence->rope.epoch);
  header.layer_params_hash = layer.params_hash;
  write_page_header(header, entries, {page, layer.layout_of(job.page).header_bytes});
}

bool needs_refill(const CacheContext& context, const Sequence& sequence, uint32_t layer, uint32_t page) {
  ResidencyLock lock = context.residency.lock();
  const Page* p = sequence.layers[layer].table->pages[page];
  return p->lost() || p->rope_epoch != context.config.page_epoch(sequence.rope.epoch);
}

void digest_page(const CacheContext& context, uint32_t layer, uint32_t page, const uint8_t* bytes,
                 std::span<const SectionEntry> entries, uint32_t lane, uint8_t* digests) {
  for (uint32_t head = 0; head < context.config.kv_heads; ++head) {
    digest_section(context, layer, page, head, bytes, entries[head], digest_rows(context, lane),
                   digests + head * context.residency.digest_bytes());
  }
}

Status seal_pages(const CacheContext& context, std::span<const SealJob> jobs) {
  if (jobs.empty()) return {};
  const uint32_t heads = context.config.kv_heads;
  Result<std::vector<uint8_t*>> slots = allocate_slots(context, jobs);
  if (!slots.ok()) return slots.status();
  const size_t digest_bytes = context.residency.digest_bytes();
  std::vector<SectionEntry> entries(jobs.size() * heads);
  std::vector<uint8_t> digests(entries.size() * digest_bytes);
  const bool on_device = context.residency.device() != nullptr;
  if (on_device) {
    if (Status status = seal_on_device(context, jobs, *slots, entries, digests); !status.ok()) {
      free_slots(context, jobs, *slots);
      return status;
    }
  } else {
    seal_on_host(context, jobs, *slots, entries, digests);
  }
  for (size_t i = 0; i < jobs.size(); ++i) {
    const std::span<const SectionEntry> mine(entries.data() + i * heads, heads);
    Status status = publish_page(context, jobs[i], (*slots)[i], mine,
                                 std::span(digests).subspan(i * heads * digest_bytes, heads * digest_bytes));
    if (!status.ok()) {
      free_slots(context, jobs.subspan(i), std::span<uint8_t* const>(*slots).subspan(i));
      return status;
    }
  }
  return {};
}

}  // namespace quire
