// What multiplies matrices in place of cuBLAS over the emulator: the CPU's BLAS, over weights and rows
// unfolded to f32, which holds every product of two bf16 as the matrix instructions do.
#include <vector>

#include "bench/qwen3/blas.h"
#include "bench/qwen3/cuda/gemm.h"
#include "bench/qwen3/error.h"
#include "bench/qwen3/float16.h"
#include "tests/emu/library.h"

namespace quire::qwen3::cuda {
namespace {

std::vector<float> unfold(const uint16_t* from, size_t count) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = bf16_to_f32(from[i]);
  return out;
}

void multiply_on_host(const GemmArgs& args) {
  const std::vector<float> w = unfold(args.w, size_t{args.rows} * args.cols);
  const std::vector<float> x = unfold(args.x, size_t{args.m} * args.cols);
  multiply({x.data(), w.data(), args.y, args.m, args.rows, args.cols, args.rows});
}

class CblasGemm final : public Gemm {
 public:
  explicit CblasGemm(cudaStream_t stream) : stream_(stream) { load_blas(); }
  void multiply(const GemmArgs& args) override {
    if (emu::run_library_work(stream_, [args] { multiply_on_host(args); }) == cudaSuccess) return;
    throw Error("the emulated device is lost");
  }

 private:
  const cudaStream_t stream_;
};

}  // namespace

std::unique_ptr<Gemm> make_gemm(cudaStream_t stream) { return std::make_unique<CblasGemm>(stream); }

}  // namespace quire::qwen3::cuda
