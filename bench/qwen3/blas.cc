#include "bench/qwen3/blas.h"

#include <cblas.h>
#include <dlfcn.h>

#include <cstdlib>
#include <string>

#include "bench/qwen3/error.h"

namespace quire::qwen3 {
namespace {

constexpr const char* kLibrary = "libopenblas.so.0";

template <typename Function>
Function* find(void* library, const char* name) {
  void* found = dlsym(library, name);
  if (found == nullptr)
    throw Error(std::string(kLibrary) + " has no " + name + "; install another version of it");
  return reinterpret_cast<Function*>(found);
}

// Its name of the kernels for what this processor has; none when it has nothing that OpenBLAS could miss.
const char* kernels_of_processor() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
      __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0) {
    return "SkylakeX";
  }
  if (__builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0) return "Haswell";
#endif
  return nullptr;
}

struct Blas {
  decltype(cblas_sgemm)* sgemm;
};

// Stays loaded for as long as the process lives.
Blas load() {
  constexpr int kKeep = 0;  // what the user has set
  if (const char* kernels = kernels_of_processor()) setenv("OPENBLAS_CORETYPE", kernels, kKeep);
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw Error(std::string("the decoder multiplies with OpenBLAS on the CPU, and ") + kLibrary +
                " does not load (" + dlerror() +
                "); install Debian's libopenblas0 or name its folder in LD_LIBRARY_PATH");
  }
  // The threads of the decoder are enough.
  find<decltype(openblas_set_num_threads)>(library, "openblas_set_num_threads")(1);
  return {find<decltype(cblas_sgemm)>(library, "cblas_sgemm")};
}

const Blas& blas() {
  static const Blas loaded = load();
  return loaded;
}

}  // namespace

void load_blas() { (void)blas(); }

void multiply(const BlasProduct& product) {
  const auto n = [](uint32_t size) { return static_cast<blasint>(size); };
  blas().sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n(product.m), n(product.n), n(product.k), 1.0F,
               product.x, n(product.k), product.w, n(product.k), 0.0F, product.y, n(product.y_stride));
}

}  // namespace quire::qwen3
