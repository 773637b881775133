// The one seam to whatever multiplies matrices on the device: cuBLAS, and over the emulator CBLAS.
// Thread safety: one thread at a time.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

namespace quire::qwen3::cuda {

// y [m][rows] f32 = x [m][cols] bf16 times the transpose of w [rows][cols] bf16, summed in f32. All in memory
// of the device, alive until the work has run; all sizes positive.
struct GemmArgs {
  const uint16_t* w;
  const uint16_t* x;
  float* y;
  uint32_t rows;
  uint32_t cols;
  uint32_t m;
};

class Gemm {
 public:
  virtual ~Gemm() = default;
  // Puts the product into the stream. The same shape gives the same bits. Throws Error.
  virtual void multiply(const GemmArgs& args) = 0;
};

// For that stream of the current device. Throws Error where the library is missing or does not start.
std::unique_ptr<Gemm> make_gemm(cudaStream_t stream);

}  // namespace quire::qwen3::cuda
