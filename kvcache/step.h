// One forward pass of a batch: which tokens of which sequences, and how far it has come.
//
// Thread safety: used by the cache's compute stream; the owner reads `status` and `miss` after synchronizing
// with it.
#pragma once

#include <cstdint>
#include <vector>

#include "kvcache/sequence.h"
#include "kvcache/tensor.h"

namespace quire {

// Tokens [first, first + count) of one sequence; they stand at token_offset in the step's tensors.
struct StepEntry {
  Sequence* sequence;
  uint64_t first;
  uint64_t count;
  bool replay;  // the tokens are there already
  uint32_t token_offset;

  FrameRun& run(uint32_t layer) const {
    SequenceLayer& l = sequence->layers[layer];
    return replay ? l.replay : l.live;
  }
};

// A range of whole pages whose keys and values are to be computed again.
struct Miss {
  Sequence* sequence = nullptr;
  uint32_t layer = 0;
  uint64_t first = 0;
  uint64_t count = 0;
};

struct Step {
  uint64_t number = 0;
  std::vector<StepEntry> entries;
  uint32_t tokens = 0;
  std::vector<bool> appended;  // by layer
  int64_t open_layer = -1;     // the layer appended to last: its frames still hold the whole chunk
  bool failed = false;         // an append failed: the step can only be ended
  Status status;               // first failure since the last wait
  Miss miss;                   // of the last kMiss
};

// Frees the frames of the open layer that later steps do not see.
void close_layer(const CacheContext& context, Step* step);

// rows: [step tokens][kv_heads][head_dim], in host memory; given: the same as the engine has them, there or
// on the device. Fills the tail, seals what is full. On failure the layer holds none of the step's tokens.
Status append_tokens(const CacheContext& context, Step* step, uint32_t layer, const KeysAndValues& rows,
                     const KeysAndValues& given);

// Encodes whole pages [first_page, first_page + pages) from tensors that start at the first of them, where
// they are lost (or of another rope epoch); the others are left alone.
Status refill_pages(const CacheContext& context, Sequence* sequence, uint32_t layer, uint32_t first_page,
                    uint32_t pages, const TensorView& keys, const TensorView& values);

}  // namespace quire
