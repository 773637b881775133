#include "bench/quality/page_bits.h"

#include <algorithm>
#include <memory>
#include <vector>

namespace quire::bench {
namespace {

// Appends what is all zeros but for one channel: no codec's bytes depend on values.
void fill(const qwen3::Cache& cache, uint64_t tokens, size_t row) {
  quire_sequence* sequence = nullptr;  // freed with the cache
  qwen3::check(quire_sequence_create(cache.handle(), &sequence), cache.handle());
  std::vector<double> still(128, 0.0);  // no rotation, for pre_rope space
  quire_rope rope{};
  rope.struct_size = sizeof rope;
  rope.rotary_dim = 2;
  rope.attention_factor = 1;
  rope.inv_freq = still.data();
  qwen3::check(quire_sequence_set_rope(sequence, &rope), cache.handle());
  const uint64_t chunk = std::max(cache.options().chunk_tokens, cache.options().page_tokens);
  std::vector<float> values(chunk * row);
  for (size_t i = 0; i < values.size(); i += row) values[i] = 1;
  for (uint64_t first = 0; first < tokens; first += chunk) {
    const quire_step_entry entry{sequence, first, std::min(chunk, tokens - first)};
    quire_step* step = nullptr;
    qwen3::check(quire_step_begin(cache.handle(), &entry, 1, nullptr, &step), cache.handle());
    quire_append_args args;
    quire_append_args_init(&args);
    args.keys.data = args.values.data = values.data();
    qwen3::check(quire_append(step, 0, &args), cache.handle());
    qwen3::check(quire_step_end(step), cache.handle());
  }
}

}  // namespace

double page_bits(const CacheSetup& setup, const CodecPair& codec, uint64_t tokens) {
  const qwen3::CacheGeometry geometry = setup.geometry(codec);
  const qwen3::Cache cache = setup.open_layer(0, codec);
  fill(cache, tokens, size_t{geometry.kv_heads} * geometry.head_dim);
  return cache.stats().page_bits;
}

}  // namespace quire::bench
