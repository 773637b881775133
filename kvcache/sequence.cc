#include "kvcache/sequence.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "kvcache/page_reader.h"

namespace quire {

Status extend_frames(const CacheContext& context, FrameRun* run, uint32_t page) {
  ResidencyLock lock = context.residency.lock();
  while (run->first_page + run->frames.size() <= page) {
    Result<float*> frame = context.residency.new_frame(lock, context.config.frame_bytes());
    if (!frame.ok()) return frame.status();
    run->frames.push_back(*frame);
  }
  return {};
}

void trim_frames(const CacheContext& context, FrameRun* run, uint32_t page) {
  const size_t count =
      std::min<size_t>(page > run->first_page ? page - run->first_page : 0, run->frames.size());
  if (count == 0) return;
  ResidencyLock lock = context.residency.lock();
  for (size_t i = 0; i < count; ++i) {
    context.residency.free_frame(lock, run->frames[i], context.config.frame_bytes());
  }
  run->frames.erase(run->frames.begin(), run->frames.begin() + static_cast<ptrdiff_t>(count));
  run->first_page += static_cast<uint32_t>(count);
  run->begin = std::max(run->begin, uint64_t{run->first_page} * context.config.page_tokens);
}

void free_frames(const CacheContext& context, FrameRun* run) {
  ResidencyLock lock = context.residency.lock();
  for (float* frame : run->frames) context.residency.free_frame(lock, frame, context.config.frame_bytes());
  *run = {};
}

void keep_frames(const CacheContext& context, SequenceLayer* layer, uint32_t page, uint64_t length) {
  const uint32_t page_tokens = context.config.page_tokens;
  FrameRun& live = layer->live;
  const uint32_t end = std::min(page, static_cast<uint32_t>((length + page_tokens - 1) / page_tokens));
  const size_t count =
      std::min<size_t>(end > live.first_page ? end - live.first_page : 0, live.frames.size());
  if (count == 0) return;
  const auto moved = live.frames.begin() + static_cast<ptrdiff_t>(count);
  layer->before = {{live.frames.begin(), moved}, live.first_page, live.begin, length};
  live.frames.erase(live.frames.begin(), moved);
  live.first_page += static_cast<uint32_t>(count);
  live.begin = std::max(live.begin, uint64_t{live.first_page} * page_tokens);
}

uint32_t first_recent_page(const CacheConfig& config, uint64_t position) {
  const auto page = static_cast<uint32_t>(position / config.page_tokens);
  return page > config.recent_pages ? page - config.recent_pages : 0;
}

std::unique_ptr<Sequence> new_sequence(const CacheContext& context, uint64_t id) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  sequence->layers.resize(context.config.layers);
  ResidencyLock lock = context.residency.lock();
  for (uint32_t i = 0; i < context.config.layers; ++i) {
    sequence->layers[i].table = context.residency.new_table(lock, i);
  }
  return sequence;
}

void free_sequence(const CacheContext& context, Sequence* sequence) {
  for (SequenceLayer& layer : sequence->layers) {
    free_frames(context, &layer.live);
    free_frames(context, &layer.replay);
    free_frames(context, &layer.before);
    ResidencyLock lock = context.residency.lock();
    context.residency.free_table(lock, layer.table);
  }
  sequence->layers.clear();
}

namespace {

Status copy_frames(const CacheContext& context, const FrameRun& from, FrameRun* to) {
  to->first_page = from.first_page;
  if (!from.frames.empty()) {
    const auto last = static_cast<uint32_t>(from.first_page + from.frames.size() - 1);
    if (Status status = extend_frames(context, to, last); !status.ok()) return status;
    for (size_t i = 0; i < from.frames.size(); ++i) {
      std::memcpy(to->frames[i], from.frames[i], context.config.frame_bytes());
    }
  }
  to->begin = from.begin;
  to->end = from.end;
  return {};
}

}  // namespace

Status fork_sequence(const CacheContext& context, const Sequence& from, Sequence* to) {
  to->rope = from.rope;
  to->offsets = from.offsets;
  for (uint32_t i = 0; i < context.config.layers; ++i) {
    {
      ResidencyLock lock = context.residency.lock();
      Status status = context.residency.share_table(lock, *from.layers[i].table, to->layers[i].table);
      if (!status.ok()) return status;
    }
    if (Status status = copy_frames(context, from.layers[i].live, &to->layers[i].live); !status.ok())
      return status;
  }
  to->length = from.length;
  return {};
}

namespace {

// Decodes a whole sealed page into a frame.
void decode_page(const CacheContext& context, const Page& page, const uint8_t* bytes, float* frame) {
  const CacheConfig& config = context.config;
  const LayerConfig& layer = config.layer[page.layer];
  const PageLayout& layout = layer.layout_of(page.index);
  const uint32_t head_floats = config.page_tokens * config.head_dim;
  const uint32_t sink_floats = uint32_t{layer.kind_of(page.index).sink_tokens} * config.head_dim;
  for (uint32_t head = 0; head < config.kv_heads; ++head) {
    const uint8_t* section = bytes + layout.header_bytes + size_t{head} * layout.section.bytes;
    const SectionEntry& entry = page.entries[head];
    float* keys = frame + size_t{head} * head_floats;
    float* values = keys + config.frame_side_floats();
    const SideView key_side{section + layout.section.key_codes, section + layout.section.key_meta,
                            entry.key_param};
    const SideView value_side{section + layout.section.value_codes, section + layout.section.value_meta,
                              entry.value_param};
    context.kernels.decode_key(layer.key_side(), config.shape(), key_side, keys);
    context.kernels.decode_value(layer.value_side(), config.shape(), value_side, values);
    const auto* sinks = reinterpret_cast<const uint16_t*>(section + layout.section.sink_keys);
    context.kernels.bf16_to_f32(sinks, sink_floats, keys);
    context.kernels.bf16_to_f32(sinks + sink_floats, sink_floats, values);
  }
}

// Frames that replace a layer's live run after a truncation that re-opens sealed pages.
Status reopen_pages(const CacheContext& context, const SequenceLayer& layer, uint32_t first, uint32_t last,
                    FrameRun* out) {
  out->first_page = first;
  if (Status status = extend_frames(context, out, last); !status.ok()) return status;
  for (uint32_t i = first; i <= last; ++i) {
    float* frame = out->frames[i - first];
    if (const float* held = layer.live.frame(i); held != nullptr) {
      std::memcpy(frame, held, context.config.frame_bytes());
      continue;
    }
    PageReader reader(context.residency);
    const Result<const uint8_t*> bytes = reader.read(layer.table, i);
    if (!bytes.ok()) return bytes.status();
    decode_page(context, *reader.page(), *bytes, frame);
  }
  out->begin = uint64_t{first} * context.config.page_tokens;
  return {};
}

}  // namespace

void undo_step(const CacheContext& context, Sequence* sequence, uint64_t length) {
  const uint32_t page_tokens = context.config.page_tokens;
  const auto end = static_cast<uint32_t>((length + page_tokens - 1) / page_tokens);
  ResidencyLock lock = context.residency.lock();
  for (SequenceLayer& layer : sequence->layers) {
    FrameRun& live = layer.live;
    while (!live.frames.empty() && live.first_page + live.frames.size() > end) {
      context.residency.free_frame(lock, live.frames.back(), context.config.frame_bytes());
      live.frames.pop_back();
    }
    if (!layer.before.frames.empty()) {
      layer.before.frames.insert(layer.before.frames.end(), live.frames.begin(), live.frames.end());
      live = std::move(layer.before);
      layer.before = {};
    } else if (live.frames.empty()) {
      live.first_page = end;
      live.begin = length;
    }
    live.end = length;
    context.residency.truncate_table(lock, layer.table, static_cast<uint32_t>(length / page_tokens));
  }
}

Status truncate_sequence(const CacheContext& context, Sequence* sequence, uint64_t length) {
  if (length > sequence->length) {
    return invalid("truncate to " + std::to_string(length) + " tokens: the sequence has only " +
                   std::to_string(sequence->length));
  }
  const auto tail_page = static_cast<uint32_t>(length / context.config.page_tokens);
  const uint32_t first = first_recent_page(context.config, length);
  const bool has_tail = length % context.config.page_tokens != 0;
  std::vector<FrameRun> runs(sequence->layers.size());
  Status status;
  for (size_t i = 0; i < runs.size() && status.ok(); ++i) {
    runs[i].first_page = first;
    runs[i].begin = uint64_t{first} * context.config.page_tokens;
    if (has_tail) {
      status = reopen_pages(context, sequence->layers[i], first, tail_page, &runs[i]);
    } else if (tail_page > first) {
      status = reopen_pages(context, sequence->layers[i], first, tail_page - 1, &runs[i]);
    }
  }
  if (!status.ok()) {
    for (FrameRun& run : runs) free_frames(context, &run);
    return status;
  }
  for (size_t i = 0; i < runs.size(); ++i) {
    SequenceLayer& layer = sequence->layers[i];
    free_frames(context, &layer.live);
    free_frames(context, &layer.replay);
    layer.live = std::move(runs[i]);
    layer.live.end = length;
    ResidencyLock lock = context.residency.lock();
    context.residency.truncate_table(lock, layer.table, tail_page);
  }
  sequence->length = length;
  return {};
}

}  // namespace quire
