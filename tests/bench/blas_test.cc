#include "bench/qwen3/blas.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <array>
#include <string>

namespace quire::qwen3 {
namespace {

TEST(BlasTest, RowsMayStandApart) {
  const std::array<float, 6> x{1, 2, 3, 4, 5, 6};     // [2][3]
  const std::array<float, 6> w{1, 0, 2, -1, 1, 0.5};  // [2][3]
  std::array<float, 6> y{9, 9, 9, 9, 9, 9};
  multiply({x.data(), w.data(), y.data(), 2, 2, 3, 3});
  EXPECT_EQ(y, (std::array<float, 6>{7, 2.5, 9, 16, 4, 9}));
}

// Versions older than a processor fall back to kernels for SSE3.
TEST(BlasTest, KernelsAreTheProcessors) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") == 0) GTEST_SKIP() << "a processor without AVX2 has no newer kernels";
  load_blas();
  void* library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_NOLOAD);
  ASSERT_NE(library, nullptr);
  const auto name = reinterpret_cast<const char* (*)()>(dlsym(library, "openblas_get_corename"));
  ASSERT_NE(name, nullptr);
  for (const char* old : {"Prescott", "Barcelona", "Core2", "Nehalem", "Sandybridge", "Unknown"}) {
    EXPECT_STRNE(name(), old);
  }
  dlclose(library);
#else
  GTEST_SKIP() << "OpenBLAS is told nothing here";
#endif
}

}  // namespace
}  // namespace quire::qwen3
