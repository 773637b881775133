// A CUDA device: weights are copied there once, rows live there, and only what is asked for comes back.
//
// Products of bf16 weights with f32 rows: a row goes into the matrix instruction as two bf16 whose sum it is
// but for 2^-17, stacked below each other so that weights are read once; their two products are added up.
#include <cuda_runtime_api.h>

#include <string>
#include <unordered_map>
#include <vector>

#include "bench/qwen3/compute.h"
#include "bench/qwen3/cuda/gemm.h"
#include "bench/qwen3/cuda/kernels.h"
#include "bench/qwen3/error.h"

namespace quire::qwen3 {
namespace {

constexpr size_t kAlign = 256;  // of weights: what the fastest loads of a product want

void expect(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  throw Error("the decoder's device failed " + what + ": " + cudaGetErrorString(error) + " (" +
              cudaGetErrorName(error) + ")");
}

// Memory of the device that grows with what is asked of it.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { (void)cudaFree(data_); }

  template <typename T>
  T* take(size_t count) {
    const size_t bytes = count * sizeof(T);
    if (bytes > bytes_) {
      (void)cudaFree(data_);  // waits for the work that uses it
      data_ = nullptr;
      bytes_ = 0;
      expect(cudaMalloc(&data_, bytes), "allocating " + std::to_string(bytes) + " bytes of work space");
      bytes_ = bytes;
    }
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// The device's copies of a model's weights, by where those lie on the host.
class DeviceWeights {
 public:
  explicit DeviceWeights(const Weights& weights) {
    visit(weights, [&](const void* /*data*/, size_t bytes) { bytes_ += aligned(bytes); });
    auto* at = memory_.take<uint8_t>(bytes_);
    visit(weights, [&](const void* data, size_t bytes) {
      expect(cudaMemcpy(at, data, bytes, cudaMemcpyHostToDevice), "copying weights");
      copies_.emplace(data, at);
      at += aligned(bytes);
    });
  }

  template <typename T>
  const T* of(const T* host) const {
    return static_cast<const T*>(static_cast<const void*>(copies_.at(host)));
  }

 private:
  static size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

  template <typename Visit>
  static void visit(const Weights& weights, const Visit& visit_bytes) {
    const auto one = [&](const auto& values) {
      if (!values.empty()) visit_bytes(values.data(), values.size() * sizeof(values[0]));
    };
    one(weights.embedding.values);
    one(weights.final_norm);
    one(weights.head.values);
    for (const LayerWeights& layer : weights.layers) {
      for (const auto* values : {&layer.input_norm, &layer.query_norm, &layer.key_norm,
                                 &layer.post_attention_norm, &layer.qkv_bias}) {
        one(*values);
      }
      for (const Matrix* matrix : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) {
        one(matrix->values);
      }
    }
  }

  Scratch memory_;
  size_t bytes_ = 0;
  std::unordered_map<const void*, const uint8_t*> copies_;
};

class DeviceStream {
 public:
  DeviceStream() { expect(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream"); }
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;
  ~DeviceStream() {
    (void)cudaStreamSynchronize(stream_);
    (void)cudaStreamDestroy(stream_);
  }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

uint32_t rows_of(size_t floats, size_t width) { return static_cast<uint32_t>(floats / width); }

class CudaCompute final : public Compute {
 public:
  CudaCompute(const Model& model, ThreadPool& pool, int index)
      : pool_(pool), index_(select(index)), weights_(model.weights), gemm_(cuda::make_gemm(stream_.get())) {}

  ThreadPool& pool() const override { return pool_; }
  void* stream() const override { return stream_.get(); }

  float* allocate(size_t floats) override {
    select(index_);
    void* data = nullptr;
    expect(cudaMalloc(&data, floats * sizeof(float)), "allocating " + std::to_string(floats) + " floats");
    return static_cast<float*>(data);
  }
  void release(float* rows) noexcept override { (void)cudaFree(rows); }

  void store(std::span<const float> from, std::span<float> rows) override {
    up(rows.data(), from.data(), from.size());
    synchronize("copying rows to it");
  }
  void load(TokenRows rows, uint32_t width, float* out) override {
    const size_t bytes = width * sizeof(float);
    expect(cudaMemcpy2DAsync(out, bytes, rows.data, rows.stride * sizeof(float), bytes, rows.count,
                             cudaMemcpyDeviceToHost, stream_.get()),
           "copying rows from it");
    synchronize("computing");
  }

  void embed(const Matrix& table, std::span<const int32_t> tokens, std::span<float> out) override {
    select(index_);
    auto* device_tokens = tokens_.take<int32_t>(tokens.size());
    up(device_tokens, tokens.data(), tokens.size());
    const auto rows = static_cast<uint32_t>(tokens.size());
    ran(cuda::embed({weights_.of(table.values.data()), device_tokens, out.data(), rows, table.cols},
                    stream_.get()));
    synchronize("looking up embeddings");  // the tokens are the caller's
  }

  void multiply(const Matrix& w, std::span<const float> x, uint32_t m, std::span<float> y) override {
    const size_t in = size_t{m} * w.cols;
    const size_t out = size_t{m} * w.rows;
    auto* split = split_.take<uint16_t>(2 * in);
    auto* parts = parts_.take<float>(2 * out);
    ran(cuda::split({x.data(), split, in}, stream_.get()));
    gemm_->multiply({weights_.of(w.values.data()), split, parts, w.rows, w.cols, 2 * m});
    ran(cuda::join({parts, y.data(), out}, stream_.get()));
  }

  void multiply(const Matrix& w, std::span<const float> x, std::span<const ProductRows> runs,
                std::span<float> y) override {
    for (const ProductRows& run : runs) {
      const size_t in = size_t{run.count} * w.cols;
      const size_t out = size_t{run.count} * w.rows;
      if (run.count == run.rows) {
        multiply(w, x.first(in), run.rows, y.first(out));
      } else {
        multiply_part(w, run, x.first(in), y.first(out));
      }
      x = x.subspan(in);
      y = y.subspan(out);
    }
  }

  void norm(std::span<const float> rows, std::span<const float> weight, float eps,
            std::span<float> out) override {
    const auto width = static_cast<uint32_t>(weight.size());
    ran(cuda::norm_rows(
        {rows.data(), weights_.of(weight.data()), out.data(), rows_of(rows.size(), width), width, eps},
        stream_.get()));
  }

  void norm_heads(std::span<float> rows, const HeadShape& shape, std::span<const float> query_weight,
                  std::span<const float> key_weight, float eps) override {
    ran(cuda::norm_heads(
        {heads(rows, shape), weights_.of(query_weight.data()), weights_.of(key_weight.data()), eps},
        stream_.get()));
  }

  void rotate_heads(std::span<float> rows, const HeadShape& shape, std::span<const float> angles) override {
    ran(cuda::rotate_heads({heads(rows, shape), angles.data(), angles.data() + angles.size() / 2},
                           stream_.get()));
  }

  void swiglu(std::span<const float> gate_up, uint32_t width, std::span<float> out) override {
    ran(cuda::swiglu({gate_up.data(), out.data(), rows_of(out.size(), width), width}, stream_.get()));
  }
  void add(std::span<float> rows, std::span<const float> other) override {
    ran(cuda::add({rows.data(), other.data(), rows.size(), rows.size()}, stream_.get()));
  }
  void add_bias(std::span<float> rows, std::span<const float> bias) override {
    ran(cuda::add({rows.data(), weights_.of(bias.data()), rows.size(), bias.size()}, stream_.get()));
  }

  int32_t sample(std::span<const float> logits, Sampler& sampler) override {
    const Draw draw = sampler.draw();
    const auto vocab = static_cast<uint32_t>(logits.size());
    auto* token = token_.take<int32_t>(1);
    ran(cuda::sample({logits.data(), vocab, draw.top_k, draw.temperature, draw.top_p, draw.uniform,
                      shares_.take<uint64_t>(vocab), token},
                     stream_.get()));
    int32_t out = 0;
    expect(cudaMemcpyAsync(&out, token, sizeof out, cudaMemcpyDeviceToHost, stream_.get()),
           "copying a token from it");
    synchronize("computing");
    return out;
  }

 private:
  static int select(int index) {
    expect(cudaSetDevice(index), "being chosen as cuda:" + std::to_string(index));
    return index;
  }
  static void ran(cudaError_t launched) { expect(launched, "launching a kernel"); }
  static cuda::HeadRows heads(std::span<float> rows, const HeadShape& shape) {
    return {rows.data(), rows_of(rows.size(), shape.stride()), shape.query_heads, shape.kv_heads, shape.dim};
  }

  template <typename T>
  void up(T* to, const T* from, size_t count) {
    expect(cudaMemcpyAsync(to, from, count * sizeof(T), cudaMemcpyHostToDevice, stream_.get()),
           "copying to it");
  }
  void synchronize(const std::string& what) { expect(cudaStreamSynchronize(stream_.get()), what); }

  // Rows of a larger product, whose other rows are zeros.
  void multiply_part(const Matrix& w, const ProductRows& run, std::span<const float> x, std::span<float> y) {
    auto* whole_x = whole_x_.take<float>(size_t{run.rows} * w.cols);
    auto* whole_y = whole_y_.take<float>(size_t{run.rows} * w.rows);
    const std::span<float> all_x(whole_x, size_t{run.rows} * w.cols);
    expect(cudaMemsetAsync(whole_x, 0, all_x.size_bytes(), stream_.get()), "clearing rows");
    copy(whole_x + size_t{run.first} * w.cols, x.data(), x.size());
    multiply(w, all_x, run.rows, {whole_y, size_t{run.rows} * w.rows});
    copy(y.data(), whole_y + size_t{run.first} * w.rows, y.size());
  }
  void copy(float* to, const float* from, size_t count) {
    expect(cudaMemcpyAsync(to, from, count * sizeof(float), cudaMemcpyDeviceToDevice, stream_.get()),
           "copying rows");
  }

  ThreadPool& pool_;
  const int index_;
  const DeviceWeights weights_;
  const DeviceStream stream_;
  const std::unique_ptr<cuda::Gemm> gemm_;
  Scratch tokens_;   // [n]
  Scratch split_;    // [2][m][cols], bf16
  Scratch parts_;    // [2][m][rows]
  Scratch whole_x_;  // a product's rows with those that are not wanted
  Scratch whole_y_;
  Scratch shares_;  // [vocab]
  Scratch token_;   // [1]
};

}  // namespace

std::unique_ptr<Compute> make_cuda_compute(const Model& model, ThreadPool& pool, uint32_t index) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || index >= static_cast<uint32_t>(count)) {
    throw Error("cuda:" + std::to_string(index) + ": this machine has " + std::to_string(count) +
                " CUDA device(s), counted from 0; name one of them, or compute on the CPU");
  }
  return std::make_unique<CudaCompute>(model, pool, static_cast<int>(index));
}

}  // namespace quire::qwen3
