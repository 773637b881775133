// Emulated counterparts of the PTX instructions that quant/cuda/gpu.h wraps: the same names, so that the
// wrapper header includes this instead of defining them. Layouts of fragments are those of the PTX manual.
#pragma once

#include <cuda_runtime.h>

#include "tests/emu/products.h"

namespace emu {

// Threads of a warp hold a matrix in fragments: lane l has row l / 4 and columns from (l % 4) * n on.
// D[16][8] = A[16][32] B[32][8] + D in integers; which operands have a sign is a template argument.
void mma_bytes(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool a_signed, bool b_signed,
               const Site& site);
// D[16][8] = A[16][16] B[16][8] + D in f32, operands in f16 or bf16.
void mma_halves(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool bf16, const Site& site);
// Four 8x8 matrices of 16 bits; lane l gives the address of row l % 8 of matrix l / 8.
void load_matrices(uint32_t (&r)[4], const void* row, const Site& site);

// Products of four warps: products.h.
void product_begin(Product product);
void product_commit();
// Until at most so many of this thread's groups are under way.
void product_await(size_t groups_left, const Site& site);

// mbarrier, and copies that it counts: copies.h. bytes: that arrive announces.
void barrier_init(uint64_t* barrier, unsigned arrivals);
void barrier_arrive(uint64_t* barrier, size_t bytes);
void barrier_await(uint64_t* barrier, unsigned parity, const Site& site);
void bulk_copy(void* dst, const void* src, size_t bytes, uint64_t* barrier);

// Loads and stores of whole vectors, with the alignment the hardware wants.
template <typename V>
V load_vector(const void* at) {
  check_aligned(at, sizeof(V), "vector load");
  V value;
  std::memcpy(&value, at, sizeof(V));
  return value;
}
template <typename V>
void store_vector(void* at, V value) {
  check_aligned(at, sizeof(V), "vector store");
  std::memcpy(at, &value, sizeof(V));
}

}  // namespace emu
