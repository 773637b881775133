// The forward pass of a dense model, one chunk of tokens at a time.
//
// What a row's result is depends on its own inputs and on the shape of the products it stood in, so a pass
// over other rows of the same shape gives the same bits. Work space grows with the chunk, never with the
// context. Thread safety: one pass at a time, except that an Attention may start recompute from inside one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bench/qwen3/attention.h"
#include "bench/qwen3/model.h"
#include "bench/qwen3/rope.h"
#include "bench/qwen3/thread_pool.h"

namespace quire::qwen3 {

// The tokens of one pass, at consecutive positions.
struct Pass {
  std::span<const int32_t> tokens;
  uint64_t first_position = 0;
  std::span<const ProductRows> products;  // cover the tokens in order
  const Rope* rope = nullptr;             // nullptr: the attention rotates queries and keys itself
};

class Decoder {
 public:
  // Both must outlive the decoder.
  Decoder(const Model& model, ThreadPool& pool);

  const Model& model() const { return model_; }
  ThreadPool& pool() const { return pool_; }

  // Runs every layer. Returns the logits of the last `logit_rows` tokens, [logit_rows][vocab], valid until
  // the next forward.
  std::span<const float> forward(const Pass& pass, Attention& attention, uint32_t logit_rows,
                                 Observer* observer = nullptr);

  // Computes keys and values of `layer` again: runs the layers before it, then appends in `layer`.
  void recompute(const Pass& pass, Attention& attention, uint32_t layer) const;

 private:
  struct Workspace {
    RopeTable rope;
    std::vector<float> hidden;    // [n][hidden], the residual stream
    std::vector<float> normed;    // [n][hidden]
    std::vector<float> qkv;       // [n][(H + 2 H_kv) * D]
    std::vector<float> attended;  // [n][H * D]
    std::vector<float> block;     // [n][hidden], what a block adds to the stream
    std::vector<float> gate_up;   // [n][2 * intermediate]
    std::vector<float> gated;     // [n][intermediate]
  };

  void start(const Pass& pass, Workspace& space) const;
  void run_layer(uint32_t layer, const Pass& pass, Attention& attention, Workspace& space,
                 Observer* observer) const;
  void project_qkv(uint32_t layer, const Pass& pass, Workspace& space, Observer* observer) const;
  void append(uint32_t layer, const Pass& pass, Attention& attention, const Workspace& space) const;
  void run_attention(uint32_t layer, const Pass& pass, Attention& attention, Workspace& space,
                     Observer* observer) const;
  void run_mlp(uint32_t layer, const Pass& pass, Workspace& space) const;
  void embed(const Pass& pass, Workspace& space) const;
  void add_bias(std::span<const float> bias, std::span<float> rows) const;
  void norm_heads(const LayerWeights& weights, uint32_t count, Workspace& space) const;
  void rotate_heads(uint32_t count, Workspace& space) const;
  void norm_rows(std::span<const float> rows, std::span<const float> weight, std::span<float> out) const;
  template <typename Function>
  void for_rows(size_t count, const Function& function) const;

  const Model& model_;
  ThreadPool& pool_;
  Workspace space_;
  std::vector<float> final_;   // [n][hidden], output of the final norm
  std::vector<float> logits_;  // [logit_rows][vocab]
};

}  // namespace quire::qwen3
