// The one header that device code includes. nvcc sees CUDA; a host compiler that finds the emulator's headers
// on its include path (tests/emu) sees that, and runs the very same kernels.
//
// Rules of device code, which keep it correct in both:
//  - launches go through launch(), shared memory through Smem or QUIRE_SHARED, accesses of more than one
//  element
//    through load_as and store_as;
//  - inline PTX stands in this header and in warpgroup.cuh alone, one wrapper per instruction;
//  - only *_sync collectives, with explicit masks; no return before a barrier; no spinning between blocks;
//  - no __CUDA_ARCH__: every architecture runs the same code. What one alone has is a unit of its own
//    (attend_warpgroups.cu), and the host chooses.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#if defined(__CUDACC__)
#define QUIRE_SHARED(T, name) __shared__ std::type_identity_t<T> name
#else
#include <emu_ptx.h>
#define QUIRE_SHARED(T, name)                          \
  static const char name##_key = 0;                    \
  auto& name = *static_cast<std::type_identity_t<T>*>( \
      ::emu::static_shared(&name##_key, sizeof(std::type_identity_t<T>), 16))
#endif

namespace quire::cuda {

inline constexpr unsigned kAllLanes = 0xFFFFFFFFU;
inline constexpr unsigned kWarpLanes = 32;

// ---- memory ----

// Cuts the dynamic shared memory of a launch: every thread takes the same arrays in the same order.
class Smem {
 public:
  template <typename T>
  __device__ __forceinline__ T* take(size_t n) {
    constexpr size_t kAlign = 16;
    static_assert(alignof(T) <= kAlign);
    const size_t bytes = (n * sizeof(T) + kAlign - 1) / kAlign * kAlign;
#if defined(__CUDACC__)
    extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
    T* part = reinterpret_cast<T*>(dynamic_shared_memory + used_);
#else
    T* part = static_cast<T*>(::emu::dynamic_shared(parts_++, used_, bytes));
#endif
    used_ += bytes;
    return part;
  }

 private:
  size_t used_ = 0;
#if !defined(__CUDACC__)
  unsigned parts_ = 0;
#endif
};

// One access of 2, 4, 8 or 16 bytes to global or shared memory; `at` is a multiple of that.
template <typename V>
__device__ __forceinline__ V load_as(const void* at) {
  static_assert(sizeof(V) == 2 || sizeof(V) == 4 || sizeof(V) == 8 || sizeof(V) == 16);
#if defined(__CUDACC__)
  return *static_cast<const V*>(at);
#else
  return ::emu::load_vector<V>(at);
#endif
}
template <typename V>
__device__ __forceinline__ void store_as(void* at, V value) {
  static_assert(sizeof(V) == 2 || sizeof(V) == 4 || sizeof(V) == 8 || sizeof(V) == 16);
#if defined(__CUDACC__)
  *static_cast<V*>(at) = value;
#else
  ::emu::store_vector<V>(at, value);
#endif
}

// Keeps the compilers from moving loads to before it, which takes registers for what they bring.
__device__ __forceinline__ void hold_back_loads() { __syncwarp(); }

// The same value, but for all the compiler knows another: what was made of it before is made again, and not
// kept in registers until then.
template <typename T>
__device__ __forceinline__ T made_anew(T value) {
  static_assert(sizeof(T) == 4);
#if defined(__CUDACC__)
  if constexpr (std::is_floating_point_v<T>) {
    asm volatile("" : "+f"(value));
  } else {
    asm volatile("" : "+r"(value));
  }
#endif
  return value;
}

// 16 bytes from global to shared memory, past the registers and the L1 cache.
__device__ __forceinline__ void copy_async16(void* shared, const void* global) {
#if defined(__CUDACC__)
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
#else
  ::emu::copy_async(shared, global, 16, ::emu::Site::current());
#endif
}
__device__ __forceinline__ void copy_async_commit() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  ::emu::copy_async_commit();
#endif
}
// Until at most kLeft of this thread's groups are under way.
template <int kLeft>
__device__ __forceinline__ void copy_async_wait() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
#else
  ::emu::copy_async_wait(kLeft);
#endif
}

// ---- arithmetic ----

// 2^x to two units in the last place, 0 below 2^-126.
__device__ __forceinline__ float exp2_approx(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return x < -126.0F ? 0.0F : std::exp2(x);
#endif
}

// The smallest integer not below 2 x, for |x| < 2^20, exactly.
__device__ __forceinline__ int ceil_twice(float x) {
#if defined(__CUDACC__)
  constexpr int kBits = 0x4B400000;  // of 1.5 * 2^23, whose last bit is worth 1
  return __float_as_int(__fmaf_ru(x, 2.0F, 12582912.0F)) - kBits;
#else
  return static_cast<int>(std::ceil(2.0F * x));
#endif
}

// The smallest integer not below 2 x, clamped to -256 .. 256, plus 256, exactly; 0 of NaN. What is added and
// clamped is rounded up on the way, which leaves integers as they are; then the bits of a subnormal count.
__device__ __forceinline__ uint32_t ceil_twice_clamped(float x) {
#if defined(__CUDACC__)
  float y;
  asm("{\n\t.reg .f32 z;\n\t"
      "fma.rp.sat.f32 z, %1, 0f3B800000, 0f3F000000;\n\t"  // x / 256 + 1/2
      "mul.rp.f32 %0, z, 0f00000200;\n\t}"                 // 512 z 2^-149
      : "=f"(y)
      : "f"(x));
  return __float_as_uint(y);
#else
  return x == x ? static_cast<uint32_t>(std::ceil(std::fmin(std::fmax(2.0F * x, -256.0F), 256.0F)) + 256.0F)
                : 0U;
#endif
}

// 1 / x to one unit in the last place; x is normal.
__device__ __forceinline__ float reciprocal_approx(float x) {
#if defined(__CUDACC__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0F / x;
#endif
}

// Four bytes of a (0 to 3) and b (4 to 7) by the nibbles of the lower half of `select`; a nibble's highest
// bit asks for the byte's sign, eight times, instead.
__device__ __forceinline__ uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t select) {
#if defined(__CUDACC__)
  uint32_t d;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(select));
  return d;
#else
  return __byte_perm(a, b, select);
#endif
}

// d[16][8] += a[16][32] b[32][8], or d = a b + c. Fragments: PTX manual, mma.m16n8k32. Lane l has
//   a[0]: row l/4, columns 4 (l%4) ..;  a[1]: row l/4 + 8;  a[2], a[3]: the same, 16 columns on
//   b[0]: rows 4 (l%4) .. of column l/4;  b[1]: 16 rows on
//   d[0], d[1]: row l/4, columns 2 (l%4), 2 (l%4) + 1;  d[2], d[3]: row l/4 + 8
struct SignedBytes {};
struct UnsignedBytes {};
#if defined(__CUDACC__)
#define QUIRE_MMA_BYTES(A, B, TYPES)                                                                         \
  __device__ __forceinline__ void mma_bytes(A, B, int(&d)[4], const uint32_t(&a)[4],                         \
                                            const uint32_t(&b)[2]) {                                         \
    asm("mma.sync.aligned.m16n8k32.row.col.s32." TYPES                                                       \
        ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                         \
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                                     \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                 \
  }                                                                                                          \
  __device__ __forceinline__ void mma_bytes(A, B, int(&d)[4], const uint32_t(&a)[4], const uint32_t(&b)[2],  \
                                            const int(&c)[4]) {                                              \
    asm("mma.sync.aligned.m16n8k32.row.col.s32." TYPES                                                       \
        ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"                                     \
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])                                                     \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]), "r"(c[2]), \
          "r"(c[3]));                                                                                        \
  }
QUIRE_MMA_BYTES(SignedBytes, SignedBytes, "s8.s8")
QUIRE_MMA_BYTES(SignedBytes, UnsignedBytes, "s8.u8")
QUIRE_MMA_BYTES(UnsignedBytes, SignedBytes, "u8.s8")
QUIRE_MMA_BYTES(UnsignedBytes, UnsignedBytes, "u8.u8")
#undef QUIRE_MMA_BYTES
#else
template <typename A, typename B>
void mma_bytes(A, B, int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  ::emu::mma_bytes(d, a, b, std::is_same_v<A, SignedBytes>, std::is_same_v<B, SignedBytes>,
                   ::emu::Site::current());
}
template <typename A, typename B>
void mma_bytes(A, B, int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int (&c)[4]) {
  for (int i = 0; i < 4; ++i) d[i] = c[i];
  ::emu::mma_bytes(d, a, b, std::is_same_v<A, SignedBytes>, std::is_same_v<B, SignedBytes>,
                   ::emu::Site::current());
}
#endif

// d[16][8] += a[16][16] b[16][8] of bf16 pairs. Lane l has
//   a[0]: row l/4, columns 2 (l%4), +1;  a[1]: row l/4 + 8;  a[2], a[3]: the same, 8 columns on
//   b[0]: rows 2 (l%4), +1 of column l/4;  b[1]: 8 rows on;  d as above
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDACC__)
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  ::emu::mma_halves(d, a, b, true, ::emu::Site::current());
#endif
}

// ---- launches ----

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

// Puts kernel(arguments...) into the stream. More than 48 KiB of shared memory are asked for on the way.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(const LaunchShape& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
  constexpr size_t kWithoutOptIn = 48 * 1024;
  const auto* function = reinterpret_cast<const void*>(kernel);
  if (shape.shared_bytes > kWithoutOptIn) {
    const cudaError_t error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return error;
  }
#if defined(__CUDACC__)
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
#else
  std::tuple<std::decay_t<Parameters>...> values(std::forward<Arguments>(arguments)...);
  return static_cast<cudaError_t>(
      ::emu::launch_kernel(shape.grid, shape.block, shape.shared_bytes, shape.stream, function,
                           [kernel, values = std::move(values)] { std::apply(kernel, values); }));
#endif
}

}  // namespace quire::cuda
