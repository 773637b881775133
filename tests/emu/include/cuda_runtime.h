// What kernels see of CUDA besides half precision: the language's words, the built-in variables, barriers,
// warp collectives, atomics and intrinsics, with the toolkit's names. See tests/emu/README.md.
#pragma once

#include <cuda_runtime_api.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "tests/emu/device.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

#define threadIdx (::emu::self->thread)
#define blockIdx (::emu::self->block)
#define blockDim (::emu::self->block_dim)
#define gridDim (::emu::self->grid_dim)
#define warpSize 32

// ---- barriers ----
inline void __syncthreads(emu::Site site = emu::Site::current()) {
  emu::block_barrier(emu::Vote::kNone, 0, site);
}
inline int __syncthreads_count(int predicate, emu::Site site = emu::Site::current()) {
  return emu::block_barrier(emu::Vote::kCount, predicate, site);
}
inline int __syncthreads_and(int predicate, emu::Site site = emu::Site::current()) {
  return emu::block_barrier(emu::Vote::kAnd, predicate, site);
}
inline int __syncthreads_or(int predicate, emu::Site site = emu::Site::current()) {
  return emu::block_barrier(emu::Vote::kOr, predicate, site);
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFU, emu::Site site = emu::Site::current()) {
  emu::warp_collective("__syncwarp", mask, nullptr, nullptr, nullptr, true, site);
}
inline void __threadfence() { emu::thread_fence(); }
inline void __threadfence_block() { emu::thread_fence(); }

// ---- shuffles ----
namespace emu {

// Combining moves other lanes' values: that is what the operation does, and no race.
#define EMU_COMBINE __attribute__((no_sanitize("thread")))

template <typename T>
struct ShuffleIn {
  T value;
  int source;  // a lane, or -1 for one's own value
};

template <typename T>
T shuffle(const char* name, unsigned mask, T value, int source, const Site& site) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  const ShuffleIn<T> in{value, source};
  T out{};
  warp_collective(
      name, mask, &in, &out,
      [](const void* const* ins, void* const* outs, unsigned lanes) EMU_COMBINE {
        for (unsigned lane = 0; lane < 32; ++lane) {
          if ((lanes >> lane & 1U) == 0) continue;
          const int wanted = static_cast<const ShuffleIn<T>*>(ins[lane])->source;
          const unsigned from = wanted < 0 ? lane : static_cast<unsigned>(wanted);
          if ((lanes >> from & 1U) == 0) {
            fail("shuffle: lane %u reads lane %u, which is not in mask %08x", lane, from, lanes);
          }
          *static_cast<T*>(outs[lane]) = static_cast<const ShuffleIn<T>*>(ins[from])->value;
        }
      },
      false, site);
  return out;
}

inline int shuffle_lane(int width) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) fail("shuffle: width %d", width);
  return static_cast<int>(self->lane);
}

template <typename T, typename Op>
T reduce(const char* name, unsigned mask, T value, Op /*op*/, const Site& site) {
  T out{};
  warp_collective(
      name, mask, &value, &out,
      [](const void* const* ins, void* const* outs, unsigned lanes) EMU_COMBINE {
        T result{};
        bool any = false;
        for (unsigned lane = 0; lane < 32; ++lane) {
          if ((lanes >> lane & 1U) == 0) continue;
          const T next = *static_cast<const T*>(ins[lane]);
          result = any ? Op{}(result, next) : next;
          any = true;
        }
        for (unsigned lane = 0; lane < 32; ++lane) {
          if ((lanes >> lane & 1U) != 0) *static_cast<T*>(outs[lane]) = result;
        }
      },
      false, site);
  return out;
}

struct Add {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(a + b);
  }
};
struct Max {
  template <typename T>
  T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
struct Min {
  template <typename T>
  T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};
struct Or {
  unsigned operator()(unsigned a, unsigned b) const { return a | b; }
};

}  // namespace emu

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, emu::Site site = emu::Site::current()) {
  const int lane = emu::shuffle_lane(width);
  return emu::shuffle("__shfl_sync", mask, value, (lane & ~(width - 1)) + (source & (width - 1)), site);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, emu::Site site = emu::Site::current()) {
  const int lane = emu::shuffle_lane(width);
  const int source = lane ^ bits;
  // An earlier segment may be read, a later one may not.
  const bool later = (source & ~(width - 1)) > (lane & ~(width - 1));
  return emu::shuffle("__shfl_xor_sync", mask, value, later ? -1 : source, site);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   emu::Site site = emu::Site::current()) {
  const int lane = emu::shuffle_lane(width);
  const bool inside = (lane & (width - 1)) + static_cast<int>(delta) < width;
  return emu::shuffle("__shfl_down_sync", mask, value, inside ? lane + static_cast<int>(delta) : -1, site);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 emu::Site site = emu::Site::current()) {
  const int lane = emu::shuffle_lane(width);
  const bool inside = (lane & (width - 1)) >= static_cast<int>(delta);
  return emu::shuffle("__shfl_up_sync", mask, value, inside ? lane - static_cast<int>(delta) : -1, site);
}

// ---- votes and reductions ----
inline unsigned __ballot_sync(unsigned mask, int predicate, emu::Site site = emu::Site::current()) {
  const unsigned mine = predicate != 0 ? 1U << emu::self->lane : 0U;
  return emu::reduce("__ballot_sync", mask, mine, emu::Or{}, site);
}
inline int __any_sync(unsigned mask, int predicate, emu::Site site = emu::Site::current()) {
  return __ballot_sync(mask, predicate, site) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate, emu::Site site = emu::Site::current()) {
  return __ballot_sync(mask, predicate, site) == mask ? 1 : 0;
}
inline int __reduce_add_sync(unsigned mask, int value, emu::Site site = emu::Site::current()) {
  return emu::reduce("__reduce_add_sync", mask, value, emu::Add{}, site);
}
inline int __reduce_max_sync(unsigned mask, int value, emu::Site site = emu::Site::current()) {
  return emu::reduce("__reduce_max_sync", mask, value, emu::Max{}, site);
}
inline int __reduce_min_sync(unsigned mask, int value, emu::Site site = emu::Site::current()) {
  return emu::reduce("__reduce_min_sync", mask, value, emu::Min{}, site);
}

// ---- atomics: relaxed, as the hardware's; fences order them ----
namespace emu {

template <typename T, typename Op>
T atomic_update(T* at, Op op) {
  before_atomic(at);
  T old;
  __atomic_load(at, &old, __ATOMIC_RELAXED);
  T changed = op(old);
  while (!__atomic_compare_exchange(at, &old, &changed, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    changed = op(old);
  }
  after_atomic(at);
  return old;
}

}  // namespace emu

template <typename T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  return emu::atomic_update(at, [value](T old) { return static_cast<T>(old + value); });
}
template <typename T>
T atomicMax(T* at, std::type_identity_t<T> value) {
  return emu::atomic_update(at, [value](T old) { return old > value ? old : value; });
}
template <typename T>
T atomicOr(T* at, std::type_identity_t<T> value) {
  return emu::atomic_update(at, [value](T old) { return static_cast<T>(old | value); });
}

// ---- arithmetic ----
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0F / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
// Saturates, and takes NaN to 0, as the hardware does.
inline int __float2int_rn(float value) {
  if (!(value == value)) return 0;
  if (value >= 0x1p31F) return 0x7FFFFFFF;
  if (value < -0x1p31F) return -0x7FFFFFFF - 1;
  return static_cast<int>(std::nearbyint(value));
}
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
template <typename A, typename B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using C = std::common_type_t<A, B>;
  return static_cast<C>(b) < static_cast<C>(a) ? static_cast<C>(b) : static_cast<C>(a);
}
template <typename A, typename B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using C = std::common_type_t<A, B>;
  return static_cast<C>(a) < static_cast<C>(b) ? static_cast<C>(b) : static_cast<C>(a);
}

// Byte i of the result is byte (selector nibble i & 7) of the eight bytes b:a, or its sign eight times.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned nibble = selector >> (4 * i) & 0xFU;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (nibble & 7U)) & 0xFFU);
    if ((nibble & 8U) != 0) byte = (byte & 0x80U) != 0 ? 0xFFU : 0U;
    result |= byte << (8 * i);
  }
  return result;
}

namespace emu {

// sum + the four products of bytes, of which each operand says whether they have a sign.
template <typename A, typename B>
int dot_bytes(A a, B b, int sum) {
  for (unsigned i = 0; i < 4; ++i) {
    const auto byte = [i](auto word) {
      const auto bits = static_cast<uint8_t>(static_cast<unsigned>(word) >> (8 * i));
      return std::is_signed_v<decltype(word)> ? static_cast<int8_t>(bits) : static_cast<int>(bits);
    };
    sum = static_cast<int>(static_cast<unsigned>(sum) + static_cast<unsigned>(byte(a) * byte(b)));
  }
  return sum;
}

}  // namespace emu
inline int __dp4a(int a, int b, int sum) { return emu::dot_bytes(a, b, sum); }
inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
  return static_cast<unsigned>(emu::dot_bytes(a, b, static_cast<int>(sum)));
}
