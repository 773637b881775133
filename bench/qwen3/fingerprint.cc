#include "bench/qwen3/fingerprint.h"

#define XXH_INLINE_ALL  // the streaming state is a complete type only then
#include <xxhash.h>

#include <algorithm>
#include <type_traits>
#include <vector>

namespace quire::qwen3 {
namespace {

class Hash {
 public:
  Hash() { XXH3_128bits_reset(&state_); }

  template <typename T>
  void number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    XXH3_128bits_update(&state_, &value, sizeof value);
  }
  template <typename T>
  void list(const std::vector<T>& values) {
    number(uint64_t{values.size()});
    XXH3_128bits_update(&state_, values.data(), values.size() * sizeof(T));
  }
  void matrix(const Matrix& matrix) {
    number(matrix.rows);
    number(matrix.cols);
    list(matrix.values);
  }
  void selection(const SelectionOptions& s) {
    number(static_cast<uint32_t>(s.kind));
    if (s.kind == QUIRE_SELECT_NONE) return;
    number(s.pages);
    number(s.share);
    number(s.mass);
    number(s.window);
  }
  XXH128_hash_t digest() const { return XXH3_128bits_digest(&state_); }

 private:
  XXH3_state_t state_;
};

void add_layer(const LayerWeights& layer, Hash* hash) {
  for (const std::vector<float>* vector :
       {&layer.input_norm, &layer.query_norm, &layer.key_norm, &layer.post_attention_norm, &layer.qkv_bias}) {
    hash->list(*vector);
  }
  for (const Matrix* matrix : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) hash->matrix(*matrix);
}

}  // namespace

Fingerprint model_fingerprint(const Model& model, const SelectionOptions& prefill,
                              const SelectionOptions& select) {
  const ModelConfig& config = model.config;
  Hash hash;
  for (const uint32_t number : {config.vocab_size, config.hidden_size, config.intermediate_size,
                                config.layers, config.query_heads, config.kv_heads, config.head_dim}) {
    hash.number(number);
  }
  hash.number(config.rms_norm_eps);
  hash.selection(prefill);
  hash.selection(select);
  hash.matrix(model.weights.embedding);
  for (const LayerWeights& layer : model.weights.layers) add_layer(layer, &hash);
  const XXH128_hash_t digest = hash.digest();
  return {std::max<uint64_t>(digest.low64, 1), digest.high64};
}

uint64_t rope_fingerprint(const Rope& rope) {
  Hash hash;
  hash.list(rope.inv_freq);
  hash.number(rope.attention_factor);
  return std::max<uint64_t>(hash.digest().low64, 1);
}

}  // namespace quire::qwen3
