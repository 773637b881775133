// The CPU: rows are host memory, loops over them run on the pool.
#include <algorithm>
#include <cstring>

#include "bench/qwen3/blas.h"
#include "bench/qwen3/compute.h"
#include "bench/qwen3/float16.h"
#include "bench/qwen3/ops.h"
#include "bench/qwen3/rope.h"

namespace quire::qwen3 {
namespace {

// Rows that one task works on: enough to be worth waking a thread.
constexpr size_t kTaskRows = 32;

class CpuCompute final : public Compute {
 public:
  explicit CpuCompute(ThreadPool& pool) : pool_(pool) { load_blas(); }

  ThreadPool& pool() const override { return pool_; }
  void* stream() const override { return nullptr; }

  float* allocate(size_t floats) override { return new float[floats]; }
  void release(float* rows) noexcept override { delete[] rows; }
  void store(std::span<const float> from, std::span<float> rows) override {
    std::copy(from.begin(), from.end(), rows.begin());
  }
  void load(TokenRows rows, uint32_t width, float* out) override {
    for (uint32_t row = 0; row < rows.count; ++row) {
      std::copy_n(rows.data + row * rows.stride, width, out + size_t{row} * width);
    }
  }

  void embed(const Matrix& table, std::span<const int32_t> tokens, std::span<float> out) override {
    for (size_t row = 0; row < tokens.size(); ++row) {
      const auto from = table.values.begin() + int64_t{tokens[row]} * table.cols;
      std::transform(from, from + table.cols, out.begin() + static_cast<int64_t>(row * table.cols),
                     bf16_to_f32);
    }
  }

  void multiply(const Matrix& w, std::span<const float> x, uint32_t m, std::span<float> y) override {
    qwen3::multiply(pool_, w, x, m, y);
  }
  void multiply(const Matrix& w, std::span<const float> x, std::span<const ProductRows> runs,
                std::span<float> y) override {
    qwen3::multiply(pool_, w, x, runs, y);
  }

  void norm(std::span<const float> rows, std::span<const float> weight, float eps,
            std::span<float> out) override {
    const size_t n = weight.size();
    for_rows(rows.size() / n,
             [&](size_t row) { rms_norm(rows.subspan(row * n, n), weight, eps, out.subspan(row * n, n)); });
  }

  void norm_heads(std::span<float> rows, const HeadShape& shape, std::span<const float> query_weight,
                  std::span<const float> key_weight, float eps) override {
    for_heads(rows, shape, [&](size_t /*row*/, uint32_t head, std::span<float> values) {
      rms_norm(values, head < shape.query_heads ? query_weight : key_weight, eps, values);
    });
  }

  void rotate_heads(std::span<float> rows, const HeadShape& shape, std::span<const float> angles) override {
    const size_t half = shape.dim / 2;
    for_heads(rows, shape, [&](size_t row, uint32_t /*head*/, std::span<float> values) {
      const auto cosines = angles.subspan(row * half, half);
      rotate(values, cosines, angles.subspan(angles.size() / 2 + row * half, half));
    });
  }

  void swiglu(std::span<const float> gate_up, uint32_t width, std::span<float> out) override {
    for_rows(out.size() / width, [&](size_t row) {
      qwen3::swiglu(gate_up.subspan(row * 2 * width, size_t{2} * width), out.subspan(row * width, width));
    });
  }

  void add(std::span<float> rows, std::span<const float> other) override { qwen3::add(rows, other); }

  void add_bias(std::span<float> rows, std::span<const float> bias) override {
    for_rows(rows.size() / bias.size(),
             [&](size_t row) { qwen3::add(rows.subspan(row * bias.size(), bias.size()), bias); });
  }

  int32_t sample(std::span<const float> logits, Sampler& sampler) override { return sampler.pick(logits); }

 private:
  template <typename Function>
  void for_rows(size_t count, const Function& function) const {
    const auto tasks = static_cast<uint32_t>((count + kTaskRows - 1) / kTaskRows);
    pool_.parallel_for(tasks, [&](uint32_t task) {
      const size_t end = std::min(count, (task + 1) * kTaskRows);
      for (size_t row = task * kTaskRows; row < end; ++row) function(row);
    });
  }

  template <typename Function>
  void for_heads(std::span<float> rows, const HeadShape& shape, const Function& function) const {
    for_rows(rows.size() / shape.stride(), [&](size_t row) {
      for (uint32_t head = 0; head < shape.turned(); ++head) {
        function(row, head, rows.subspan(row * shape.stride() + size_t{head} * shape.dim, shape.dim));
      }
    });
  }

  ThreadPool& pool_;
};

}  // namespace

std::unique_ptr<Compute> make_cpu_compute(ThreadPool& pool) { return std::make_unique<CpuCompute>(pool); }

std::unique_ptr<Compute> make_compute(const Model& model, ThreadPool& pool, uint32_t device) {
  return device == 0 ? make_cpu_compute(pool) : make_cuda_compute(model, pool, device - 1);
}

}  // namespace quire::qwen3
