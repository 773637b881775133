// Loops over vectors, written once and compiled for several instruction sets.
// Thread safety: values.
#pragma once

#include <array>
#include <cstdint>

// Compiles a function for several x86-64 levels; the first call chooses. A macro, because attributes cannot
// be carried by a template. Under a sanitizer it is empty: the choice runs before the sanitizer is ready.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define QUIRE_VECTOR_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), optimize("O3")))
#else
#define QUIRE_VECTOR_CLONES
#endif

namespace quire::qwen3 {

// 16 values that the compiler keeps in whatever registers the machine has.
inline constexpr uint32_t kLanes = 16;
using Floats = float __attribute__((vector_size(kLanes * sizeof(float))));
using Words = uint32_t __attribute__((vector_size(kLanes * sizeof(uint32_t))));
using Halves = uint16_t __attribute__((vector_size(kLanes * sizeof(uint16_t))));

}  // namespace quire::qwen3
