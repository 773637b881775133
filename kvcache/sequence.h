// A sequence: per layer the sealed pages, the tail, and what a replay holds.
//
// Thread safety: used by the cache's compute stream only; the page tables in it are guarded by Residency's
// lock.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kvcache/context.h"
#include "kvcache/rope.h"

namespace quire {

// Consecutive unfolded pages. A frame is keys [kv_heads][page_tokens][head_dim], then values, f32, in the
// codecs' spaces. Frames belong to the run's owner and are given back with free_frames.
struct FrameRun {
  std::vector<float*> frames;  // frames[i] holds page first_page + i
  uint32_t first_page = 0;
  uint64_t begin = 0;  // positions [begin, end) are filled
  uint64_t end = 0;

  // The frame of a page, or nullptr.
  float* frame(uint32_t page) const {
    const bool held = page >= first_page && page - first_page < frames.size();
    return held ? frames[page - first_page] : nullptr;
  }
};

struct SequenceLayer {
  PageTable* table = nullptr;
  FrameRun live;    // ends with the tail
  FrameRun replay;  // of the last replay steps
  FrameRun before;  // what the open step found and needs no more: it comes back when the step is undone
};

struct Sequence {
  uint64_t id = 0;
  uint64_t length = 0;
  bool in_step = false;  // an open step appends to it, or its blocks are being adopted or published
  Rope rope;
  RopeOffsets offsets;  // of rope, in pre_rope space
  std::vector<SequenceLayer> layers;
};

// Frames of pages [.., page], allocated as needed; on failure the run keeps what it had.
Status extend_frames(const CacheContext& context, FrameRun* run, uint32_t page);
// Frees the frames of pages below `page`.
void trim_frames(const CacheContext& context, FrameRun* run, uint32_t page);
void free_frames(const CacheContext& context, FrameRun* run);
// Moves the live frames below `page` that hold tokens below `length` to layer->before, which is empty.
void keep_frames(const CacheContext& context, SequenceLayer* layer, uint32_t page, uint64_t length);

// The first page whose frame queries of the next tokens still see: the tail's and `recent_pages` before it.
uint32_t first_recent_page(const CacheConfig& config, uint64_t position);

std::unique_ptr<Sequence> new_sequence(const CacheContext& context, uint64_t id);
void free_sequence(const CacheContext& context, Sequence* sequence);
// to (new and empty) becomes a fork of from: pages shared, frames copied.
Status fork_sequence(const CacheContext& context, const Sequence& from, Sequence* to);
// Forgets what an open step has appended from position `length` on, in the layers it has come to. Needs no
// memory and reads nothing, so that it cannot fail.
void undo_step(const CacheContext& context, Sequence* sequence, uint64_t length);
// Forgets positions >= length. Pages that must be re-opened are decoded into frames, all layers or none.
// kMiss when one of them is lost.
Status truncate_sequence(const CacheContext& context, Sequence* sequence, uint64_t length);

}  // namespace quire
