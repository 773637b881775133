// Hopper's matrix instructions of four warps, copies of the bulk engine, and the barriers that count them:
// one wrapper per instruction, as in gpu.h. Only units compiled for compute capability 9.0 (sm_90a) include
// this.
//
// A product is of 64 rows: warp w of the group has rows 16 w .. + 15. It is begun by all of the group's
// threads, and its operands may not change and its sums may not be read before a wait. Lane l of a warp has,
// of the sums in d, in order of n = 0, 8, 16 .. columns,
//   d[n / 2], d[n / 2 + 1]: row l / 4, columns n + 2 (l % 4), + 1;  d[n / 2 + 2], d[n / 2 + 3]: row l / 4 + 8
// and of an operand of 32 bytes a row in registers what mma_bytes (gpu.h) has.
#pragma once

#include "quant/cuda/gpu.h"

namespace quire::cuda {

inline constexpr unsigned kGroupThreads = 128;
inline constexpr unsigned kGroupRows = 64;

#if defined(__CUDACC__)
__device__ __forceinline__ uint32_t shared_address(const void* at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}
#endif

// An operand in shared memory: cores of 8 rows by 16 bytes along the reduction, a row after the other.
struct CoreMatrix {
#if defined(__CUDACC__)
  uint64_t descriptor;  // PTX manual, "Matrix-Descriptor Format", without swizzling
#else
  const uint8_t* first;
  size_t reduction_step;
  size_t row_step;
#endif
};
// first: 16-byte aligned. Steps in bytes: from a core to the next along the reduction, and to the next eight
// rows.
__device__ __forceinline__ CoreMatrix core_matrix(const uint8_t* first, uint32_t reduction_step,
                                                  uint32_t row_step) {
#if defined(__CUDACC__)
  return {uint64_t{shared_address(first) >> 4} | uint64_t{reduction_step >> 4} << 16 |
          uint64_t{row_step >> 4} << 32};
#else
  return {first, reduction_step, row_step};
#endif
}
// The same, so many bytes on: a multiple of 16.
__device__ __forceinline__ CoreMatrix behind(CoreMatrix m, uint32_t bytes) {
#if defined(__CUDACC__)
  return {m.descriptor + (bytes >> 4)};
#else
  return {m.first + bytes, m.reduction_step, m.row_step};
#endif
}

// ---- products ----

// Before a product whose sums or operands in registers were written by other instructions.
__device__ __forceinline__ void begin_products() {
#if defined(__CUDACC__)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void commit_products() {
#if defined(__CUDACC__)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  ::emu::product_commit();
#endif
}
// Until at most kLeft of the committed groups are under way. sums: what the others went to, which is not read
// before.
template <int kLeft, typename... Sums>
__device__ __forceinline__ void await_products(Sums&... sums) {
#if defined(__CUDACC__)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
  const auto hold = [](auto& d) {
    for (auto& x : d) {
      if constexpr (std::is_same_v<std::remove_reference_t<decltype(x)>, float>) {
        asm volatile("" : "+f"(x)::"memory");
      } else {
        asm volatile("" : "+r"(x)::"memory");
      }
    }
  };
  (hold(sums), ...);
#else
  ::emu::product_await(kLeft, ::emu::Site::current());
  ((void)sums, ...);
#endif
}

#if defined(__CUDACC__)
// d = a b, or d += a b. COLUMNS: of b; SUMS: of a thread, the registers whose numbers REGISTERS names; behind
// them stand those of the operands.
#define QUIRE_REGISTERS_4 "%0,%1,%2,%3"
#define QUIRE_REGISTERS_32                                                                                  \
  QUIRE_REGISTERS_4                                                                                         \
  ",%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30," \
  "%31"
#define QUIRE_SUMS_4(c, n) c(d[n]), c(d[n + 1]), c(d[n + 2]), c(d[n + 3])
#define QUIRE_SUMS_16(c, n) \
  QUIRE_SUMS_4(c, n), QUIRE_SUMS_4(c, n + 4), QUIRE_SUMS_4(c, n + 8), QUIRE_SUMS_4(c, n + 12)
#define QUIRE_SUMS_32(c, n) QUIRE_SUMS_16(c, n), QUIRE_SUMS_16(c, n + 16)

// Signed bytes by signed bytes, 32 of them a row: two rows of cores along the reduction.
#define QUIRE_MULTIPLY_BYTES(COLUMNS, SUMS, A, B, ADD)                                                      \
  __device__ __forceinline__ void multiply_bytes(int(&d)[SUMS], CoreMatrix a, CoreMatrix b, bool add) {     \
    asm volatile("{ .reg .pred add; setp.ne.b32 add, " ADD ", 0; wgmma.mma_async.sync.aligned.m64n" COLUMNS \
                 "k32.s32.s8.s8 {" QUIRE_REGISTERS_##SUMS "}, " A ", " B ", add; }"                         \
                 : QUIRE_SUMS_##SUMS("+r", 0)                                                               \
                 : "l"(a.descriptor), "l"(b.descriptor), "r"(add ? 1 : 0));                                 \
  }
QUIRE_MULTIPLY_BYTES("8", 4, "%4", "%5", "%6")
QUIRE_MULTIPLY_BYTES("64", 32, "%32", "%33", "%34")
#undef QUIRE_MULTIPLY_BYTES

// Unsigned bytes in registers by signed bytes, 64 columns.
__device__ __forceinline__ void multiply_weights(int (&d)[32], const uint32_t (&a)[4], CoreMatrix b,
                                                 bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %37, 0; wgmma.mma_async.sync.aligned.m64n64k32.s32.u8.s8 "
      "{" QUIRE_REGISTERS_32 "}, {%32,%33,%34,%35}, %36, add; }"
      : QUIRE_SUMS_32("+r", 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.descriptor), "r"(add ? 1 : 0));
}
// d += a b of bf16, 16 of them a row; a as mma_bf16 (gpu.h) has it.
__device__ __forceinline__ void multiply_means(float (&d)[32], const uint32_t (&a)[4], CoreMatrix b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" QUIRE_REGISTERS_32
               "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 0;"
               : QUIRE_SUMS_32("+f", 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.descriptor));
}
#undef QUIRE_SUMS_32
#undef QUIRE_SUMS_16
#undef QUIRE_SUMS_4
#undef QUIRE_REGISTERS_32
#undef QUIRE_REGISTERS_4
#else
template <size_t kSums>
void multiply_bytes(int (&d)[kSums], CoreMatrix a, CoreMatrix b, bool add) {
  ::emu::product_begin({::emu::Product::kBytes,
                        d,
                        kSums,
                        a.first,
                        a.reduction_step,
                        a.row_step,
                        {},
                        b.first,
                        b.reduction_step,
                        b.row_step,
                        add});
}
inline void multiply_weights(int (&d)[32], const uint32_t (&a)[4], CoreMatrix b, bool add) {
  ::emu::product_begin({::emu::Product::kWeights,
                        d,
                        32,
                        nullptr,
                        0,
                        0,
                        {a[0], a[1], a[2], a[3]},
                        b.first,
                        b.reduction_step,
                        b.row_step,
                        add});
}
inline void multiply_means(float (&d)[32], const uint32_t (&a)[4], CoreMatrix b) {
  ::emu::product_begin({::emu::Product::kHalves,
                        d,
                        32,
                        nullptr,
                        0,
                        0,
                        {a[0], a[1], a[2], a[3]},
                        b.first,
                        b.reduction_step,
                        b.row_step,
                        true});
}
#endif

// ---- registers ----

// Gives registers of all threads of a group away, or takes what others gave: each has kCount then, a multiple
// of 8.
template <int kCount>
__device__ __forceinline__ void give_registers() {
#if defined(__CUDACC__)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}
template <int kCount>
__device__ __forceinline__ void take_registers() {
#if defined(__CUDACC__)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}

// ---- barriers and copies ----

// A barrier of which threads and copies are parts. Its phases end one after the other: each when `arrivals`
// threads have arrived and the bytes that they announced are there.
using CopyBarrier = uint64_t;

// By one thread; the block meets before anyone else touches the barrier.
__device__ __forceinline__ void init_barrier(CopyBarrier* barrier, uint32_t arrivals) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals)
               : "memory");
#else
  ::emu::barrier_init(barrier, arrivals);
#endif
}
// What this thread wrote to shared memory, barriers among it, is seen by products and copies that begin after
// the block has met.
__device__ __forceinline__ void publish_to_copies() {
#if defined(__CUDACC__)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
__device__ __forceinline__ void arrive(CopyBarrier* barrier) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#else
  ::emu::barrier_arrive(barrier, 0);
#endif
}
// Arrives, and announces bytes that copies will bring.
__device__ __forceinline__ void arrive_expecting(CopyBarrier* barrier, uint32_t bytes) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
#else
  ::emu::barrier_arrive(barrier, bytes);
#endif
}
// Until a phase of this parity has ended; the first phase is even.
__device__ __forceinline__ void await(CopyBarrier* barrier, uint32_t parity) {
#if defined(__CUDACC__)
  asm volatile(
      "{ .reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @!done bra again; "
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
#else
  ::emu::barrier_await(barrier, parity, ::emu::Site::current());
#endif
}
// bytes: a multiple of 16; so are both addresses.
__device__ __forceinline__ void copy_bulk(void* shared, const void* global, uint32_t bytes,
                                          CopyBarrier* barrier) {
#if defined(__CUDACC__)
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
#else
  ::emu::bulk_copy(shared, global, bytes, barrier);
#endif
}

}  // namespace quire::cuda
