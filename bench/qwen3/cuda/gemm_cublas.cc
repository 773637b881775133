// cuBLAS, found when it is wanted: programs start without it, and one that is asked to compute on a device
// says what is missing.
#include <cublas_v2.h>
#include <dlfcn.h>

#include <string>

#include "bench/qwen3/cuda/gemm.h"
#include "bench/qwen3/error.h"

namespace quire::qwen3::cuda {
namespace {

const std::string kLibrary = "libcublas.so." + std::to_string(CUBLAS_VER_MAJOR);

// Stays loaded: what it has started may outlive whoever asked for it.
void* load_library() {
  void* library = dlopen(kLibrary.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library != nullptr) return library;
  throw Error("the decoder multiplies with cuBLAS on a device, and " + kLibrary + " does not load (" +
              dlerror() + "); install the CUDA toolkit's libraries or name their folder in LD_LIBRARY_PATH");
}

// The one of two functions of that name that the library has.
using GemmFunction = cublasStatus_t(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int,
                                    const void*, const void*, cudaDataType, int, const void*, cudaDataType,
                                    int, const void*, void*, cudaDataType, int, cublasComputeType_t,
                                    cublasGemmAlgo_t);

template <typename Function>
Function* find(void* library, const char* name) {
  void* found = dlsym(library, name);
  if (found == nullptr) throw Error(kLibrary + " has no " + name + "; install another version of it");
  return reinterpret_cast<Function*>(found);
}

void expect(cublasStatus_t status, const std::string& what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error("cuBLAS failed " + what + " with status " + std::to_string(status));
}

class CublasGemm final : public Gemm {
 public:
  explicit CublasGemm(cudaStream_t stream)
      : library_(load_library()),
        destroy_(find<decltype(cublasDestroy)>(library_, "cublasDestroy_v2")),
        gemm_(find<GemmFunction>(library_, "cublasGemmEx")) {
    expect(find<decltype(cublasCreate)>(library_, "cublasCreate_v2")(&handle_), "to start");
    expect(find<decltype(cublasSetStream)>(library_, "cublasSetStream_v2")(handle_, stream),
           "to take a stream");
  }
  CublasGemm(const CublasGemm&) = delete;
  CublasGemm& operator=(const CublasGemm&) = delete;
  ~CublasGemm() override { (void)destroy_(handle_); }

  // It has matrices by columns: ours are their transposes.
  void multiply(const GemmArgs& args) override {
    const float one = 1.0F;
    const float zero = 0.0F;
    const auto n = [](uint32_t size) { return static_cast<int>(size); };
    expect(gemm_(handle_, CUBLAS_OP_T, CUBLAS_OP_N, n(args.rows), n(args.m), n(args.cols), &one, args.w,
                 CUDA_R_16BF, n(args.cols), args.x, CUDA_R_16BF, n(args.cols), &zero, args.y, CUDA_R_32F,
                 n(args.rows), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
           "a product");
  }

 private:
  void* library_;
  decltype(cublasDestroy)* destroy_;
  GemmFunction* gemm_;
  cublasHandle_t handle_ = nullptr;
};

}  // namespace

std::unique_ptr<Gemm> make_gemm(cudaStream_t stream) { return std::make_unique<CublasGemm>(stream); }

}  // namespace quire::qwen3::cuda
