// Where a decoder computes: memory for rows of f32, and all that is done with them.
//
// Spans of rows point into memory of the Compute that made them. On a device nobody but it may follow them,
// and its work runs later, in order; what reads back waits for it. A result depends on its own row and, in
// products, on their recorded shape. Weights are those of the model that it was made for, named by where they
// lie on the host. Every function throws Error when a device fails. Thread safety: one thread at a time, but
// for the pool.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "bench/qwen3/attention.h"
#include "bench/qwen3/matrix.h"
#include "bench/qwen3/model.h"
#include "bench/qwen3/sampler.h"
#include "bench/qwen3/thread_pool.h"

namespace quire::qwen3 {

// Rows of [query_heads + 2 kv_heads][dim]: queries, keys, values.
struct HeadShape {
  uint32_t query_heads;
  uint32_t kv_heads;
  uint32_t dim;

  uint32_t turned() const { return query_heads + kv_heads; }  // those that are normalised and rotated
  size_t stride() const { return (size_t{turned()} + kv_heads) * dim; }
};

class Compute {
 public:
  virtual ~Compute() = default;

  // For loops on the host.
  virtual ThreadPool& pool() const = 0;
  // The stream of a CUDA device that rows lie on and are written by; nullptr: rows lie on the host.
  virtual void* stream() const = 0;
  bool on_device() const { return stream() != nullptr; }

  virtual float* allocate(size_t floats) = 0;
  virtual void release(float* rows) noexcept = 0;
  // From the host, which may change `from` as soon as it returns.
  virtual void store(std::span<const float> from, std::span<float> rows) = 0;
  // To the host: the first `width` floats of every row, [count][width].
  virtual void load(TokenRows rows, uint32_t width, float* out) = 0;

  // Tokens are in the table.
  virtual void embed(const Matrix& table, std::span<const int32_t> tokens, std::span<float> out) = 0;
  // x [m][w.cols], y [m][w.rows].
  virtual void multiply(const Matrix& w, std::span<const float> x, uint32_t m, std::span<float> y) = 0;
  // The same for runs of rows, one after another in x and y, each inside a product of its recorded shape.
  virtual void multiply(const Matrix& w, std::span<const float> x, std::span<const ProductRows> runs,
                        std::span<float> y) = 0;
  // out may be rows.
  virtual void norm(std::span<const float> rows, std::span<const float> weight, float eps,
                    std::span<float> out) = 0;
  virtual void norm_heads(std::span<float> rows, const HeadShape& shape, std::span<const float> query_weight,
                          std::span<const float> key_weight, float eps) = 0;
  // angles: cosines, then sines, [count][dim / 2] each.
  virtual void rotate_heads(std::span<float> rows, const HeadShape& shape, std::span<const float> angles) = 0;
  // gate_up [n][2 width], out [n][width].
  virtual void swiglu(std::span<const float> gate_up, uint32_t width, std::span<float> out) = 0;
  virtual void add(std::span<float> rows, std::span<const float> other) = 0;
  // A weight of the model's to every row.
  virtual void add_bias(std::span<float> rows, std::span<const float> bias) = 0;
  // The token after a row of logits.
  virtual int32_t sample(std::span<const float> logits, Sampler& sampler) = 0;
};

// Memory of a Compute, which must outlive it.
class RowBuffer {
 public:
  explicit RowBuffer(Compute& compute) : compute_(&compute) {}
  RowBuffer(const RowBuffer&) = delete;
  RowBuffer& operator=(const RowBuffer&) = delete;
  ~RowBuffer() { compute_->release(data_); }

  // What rows hold is lost when they grow beyond what they ever were.
  void resize(size_t floats) {
    size_ = floats;
    if (floats <= capacity_) return;
    compute_->release(data_);
    data_ = nullptr;
    capacity_ = 0;
    data_ = compute_->allocate(floats);
    capacity_ = floats;
  }
  size_t size() const { return size_; }
  float* data() { return data_; }
  const float* data() const { return data_; }
  std::span<float> rows() { return {data_, size_}; }
  std::span<const float> rows() const { return {data_, size_}; }

 private:
  Compute* compute_;
  float* data_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

std::unique_ptr<Compute> make_cpu_compute(ThreadPool& pool);

// CUDA device `index`, to which the model's weights are copied. Throws Error where this build has no CUDA, or
// there is no such device or no room on it. Model and pool must outlive it.
std::unique_ptr<Compute> make_cuda_compute(const Model& model, ThreadPool& pool, uint32_t index);

// device: as CacheOptions has it, 0 for the CPU, else 1 and the CUDA device's index.
std::unique_ptr<Compute> make_compute(const Model& model, ThreadPool& pool, uint32_t device);

}  // namespace quire::qwen3
