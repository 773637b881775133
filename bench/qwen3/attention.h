// The seam between the decoder and whatever holds its keys and values.
//
// In a pass the decoder calls, layer by layer: append with the keys and values of the pass's tokens, then
// attend with their queries. A query sees the positions up to its own. Rows lie where the decoder computes:
// on the host, or on a device, by whose stream they are written (compute.h). Thread safety: one pass at a
// time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace quire::qwen3 {

// `count` tokens of [heads][head_dim], `stride` floats from one token to the next.
struct TokenRows {
  const float* data;
  uint32_t count;
  size_t stride;
};

class Attention {
 public:
  virtual ~Attention() = default;

  // The rows stay valid and unchanged until attend of the same layer has returned, or the pass has ended.
  virtual void append(uint32_t layer, TokenRows keys, TokenRows values) = 0;
  // out [count][query_heads * head_dim].
  virtual void attend(uint32_t layer, TokenRows queries, std::span<float> out) = 0;
  // Whether it wants to be told, before attend of a layer, what the next layer's queries may be.
  virtual bool chooses_ahead() const { return false; }
  // The rows stay valid and unchanged until the next attend has returned.
  virtual void choose_ahead(uint32_t /*layer*/, TokenRows /*queries*/) {}
};

// Watches a pass: activations as they arise, rows are the pass's tokens.
class Observer {
 public:
  virtual ~Observer() = default;

  // The input of `layer`, or for layer == number of layers the output of the final norm: [n][hidden].
  virtual void on_hidden(uint32_t layer, std::span<const float> rows) = 0;
  // Queries and keys before rotation (normalised, where the family does), then values: [n][(H + 2 H_kv) * D].
  virtual void on_qkv(uint32_t layer, std::span<const float> rows) = 0;
  // The same with queries and keys rotated; not called where the attention rotates.
  virtual void on_rotated_qkv(uint32_t /*layer*/, std::span<const float> /*rows*/) {}
  // The attention block's output after its projection: [n][hidden].
  virtual void on_attention(uint32_t layer, std::span<const float> rows) = 0;
};

}  // namespace quire::qwen3
