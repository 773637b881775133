// The forward pass of a dense model, one chunk of tokens at a time, on the CPU or a CUDA device (compute.h).
//
// What a row's result is depends on its own inputs and on the shape of the products it stood in, so a pass
// over other rows of the same shape gives the same bits. Work space grows with the chunk, never with the
// context. Thread safety: one pass at a time, except that an Attention may start recompute from inside one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "bench/qwen3/attention.h"
#include "bench/qwen3/compute.h"
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
  // Both must outlive the decoder. device: as make_compute has it. Throws Error.
  Decoder(const Model& model, ThreadPool& pool, uint32_t device = 0);

  const Model& model() const { return model_; }
  ThreadPool& pool() const { return compute_->pool(); }
  // Where rows lie that an Attention is given.
  Compute& compute() const { return *compute_; }

  // Runs every layer. logits() and sample() are about its last `logit_rows` tokens until the next pass.
  void run(const Pass& pass, Attention& attention, uint32_t logit_rows, Observer* observer = nullptr);
  // [logit_rows][vocab], on the host.
  std::span<const float> logits();
  // The token after the last one, of which there must be logits; only that leaves a device.
  int32_t sample(Sampler& sampler);
  std::span<const float> forward(const Pass& pass, Attention& attention, uint32_t logit_rows,
                                 Observer* observer = nullptr);

  // Computes keys and values of `layer` again: runs the layers before it, then appends in `layer`.
  void recompute(const Pass& pass, Attention& attention, uint32_t layer) const;

 private:
  struct Workspace {
    explicit Workspace(Compute& compute)
        : angles(compute),
          hidden(compute),
          normed(compute),
          qkv(compute),
          next_qkv(compute),
          attended(compute),
          block(compute),
          gate_up(compute),
          gated(compute) {}
    RowBuffer angles;         // cosines, then sines: [n][D / 2] each
    RowBuffer hidden;         // [n][hidden], the residual stream
    RowBuffer normed;         // [n][hidden]
    RowBuffer qkv;            // [n][(H + 2 H_kv) * D]
    RowBuffer next_qkv;       // the same of the next layer, guessed; empty unless somebody asks
    RowBuffer attended;       // [n][H * D]
    RowBuffer block;          // [n][hidden], what a block adds to the stream
    RowBuffer gate_up;        // [n][2 * intermediate]
    RowBuffer gated;          // [n][intermediate]
    std::vector<float> seen;  // what a host reads of them, where they are on a device
  };

  void start(const Pass& pass, Workspace& space) const;
  void run_layer(uint32_t layer, const Pass& pass, Attention& attention, Workspace& space,
                 Observer* observer) const;
  void project_qkv(uint32_t layer, const Pass& pass, Workspace& space, std::span<float> qkv) const;
  void rotate_qkv(const Pass& pass, const Workspace& space, std::span<float> qkv) const;
  void compute_qkv(uint32_t layer, const Pass& pass, Workspace& space, Observer* observer) const;
  void guess_queries(uint32_t layer, const Pass& pass, Attention& attention, Workspace& space) const;
  void append(uint32_t layer, const Pass& pass, Attention& attention, const Workspace& space) const;
  void run_attention(uint32_t layer, const Pass& pass, Attention& attention, Workspace& space,
                     Observer* observer) const;
  void run_mlp(uint32_t layer, const Pass& pass, Workspace& space) const;
  void check_tokens(const Pass& pass) const;
  HeadShape heads() const;
  const Matrix& head() const;
  // The rows as the host sees them; on a device, copied to `to`.
  std::span<const float> on_host(const RowBuffer& rows, std::vector<float>& to) const;

  const Model& model_;
  std::unique_ptr<Compute> compute_;
  Workspace space_;
  RowBuffer final_;   // [n][hidden], output of the final norm
  RowBuffer logits_;  // [logit_rows][vocab]
  std::vector<float> host_logits_;
};

}  // namespace quire::qwen3
