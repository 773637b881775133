#include "bench/micro/mac_peak.h"

#include <immintrin.h>

#include "quant/cpu/matrix_registers.h"

namespace quire::micro {
namespace {

// Sums that do not wait for each other: more than latency times throughput of any of these on any machine so
// far, and few enough to stay in registers. Each turn gives every sum one more multiply-accumulate, as
// assembly: a compiler would see that all sums are equal and keep one.
constexpr int kSums = 12;
constexpr uint64_t kTurns = 200'000;

[[gnu::target("avx512f,avx512vnni")]] uint64_t burst_vpdpbusd() {
  __m512i sums[kSums] = {};
  const __m512i a = _mm512_set1_epi8(3);
  const __m512i b = _mm512_set1_epi8(-5);
  for (uint64_t turn = 0; turn < kTurns; ++turn) {
#pragma GCC unroll 12
    for (__m512i& sum : sums) asm volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
  return kTurns * kSums * sizeof(__m512i);
}

uint64_t burst_tdpbusd() {
  const MatrixRegisters registers;
  for (uint64_t turn = 0; turn < kTurns / 16; ++turn) {
    multiply_unsigned_signed<2, 0, 1>();
    multiply_unsigned_signed<3, 0, 1>();
    multiply_unsigned_signed<4, 0, 1>();
    multiply_unsigned_signed<5, 0, 1>();
    multiply_unsigned_signed<6, 0, 1>();
    multiply_unsigned_signed<7, 0, 1>();
  }
  return kTurns / 16 * 6 * kMatrixRows * kMatrixRows * kMatrixRowBytes;
}

[[gnu::target("avx2,avxvnni")]] uint64_t burst_vpdpbusd_256() {
  __m256i sums[kSums] = {};
  const __m256i a = _mm256_set1_epi8(3);
  const __m256i b = _mm256_set1_epi8(-5);
  for (uint64_t turn = 0; turn < kTurns; ++turn) {
#pragma GCC unroll 12
    for (__m256i& sum : sums) asm volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  }
  return kTurns * kSums * sizeof(__m256i);
}

[[gnu::target("avx2")]] uint64_t burst_vpmaddwd() {
  __m256i sums[kSums] = {};
  const __m256i a = _mm256_set1_epi16(3);
  const __m256i b = _mm256_set1_epi16(-5);
  for (uint64_t turn = 0; turn < kTurns; ++turn) {
#pragma GCC unroll 12
    for (__m256i& sum : sums) {
      __m256i product;
      asm volatile("vpmaddwd %2, %1, %0" : "=x"(product) : "x"(a), "x"(b));
      asm volatile("vpaddd %1, %0, %0" : "+x"(sum) : "x"(product));
    }
  }
  return kTurns * kSums * sizeof(__m256i) / 2;
}

[[gnu::target("avx512f")]] uint64_t burst_fma_512() {
  __m512 sums[kSums] = {};
  const __m512 a = _mm512_set1_ps(0.5F);
  const __m512 b = _mm512_set1_ps(3.0F);
  for (uint64_t turn = 0; turn < kTurns; ++turn) {
#pragma GCC unroll 12
    for (__m512& sum : sums) asm volatile("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
  return kTurns * kSums * sizeof(__m512) / sizeof(float);
}

[[gnu::target("avx2,fma")]] uint64_t burst_fma_256() {
  __m256 sums[kSums] = {};
  const __m256 a = _mm256_set1_ps(0.5F);
  const __m256 b = _mm256_set1_ps(3.0F);
  for (uint64_t turn = 0; turn < kTurns; ++turn) {
#pragma GCC unroll 12
    for (__m256& sum : sums) asm volatile("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  }
  return kTurns * kSums * sizeof(__m256) / sizeof(float);
}

[[gnu::noinline]] uint64_t burst_mulss() {
  float sums[kSums] = {};
  const float a = 0.5F;
  for (uint64_t turn = 0; turn < kTurns; ++turn) {
#pragma GCC unroll 12
    for (float& sum : sums) {
      float product = a;
      asm volatile("mulss %1, %0" : "+x"(product) : "x"(a));
      asm volatile("addss %1, %0" : "+x"(sum) : "x"(product));
    }
  }
  return kTurns * kSums;
}

}  // namespace

Mac integer_mac(Isa isa) {
  switch (isa) {
    case Isa::kAmx:
      return Mac::kMatrix;
    case Isa::kAvx512:
    case Isa::kAvxVnni:
      return Mac::kByte;
    case Isa::kAvx2:
      return Mac::kPair;
    case Isa::kScalar:
    case Isa::kNeon:  // these programs measure x86 alone
      return Mac::kScalar;
  }
  return Mac::kScalar;
}

Mac float_mac(Isa isa) { return isa == Isa::kScalar ? Mac::kScalar : Mac::kFloat; }

uint64_t mac_burst(Isa isa, Mac mac) {
  switch (mac) {
    case Mac::kMatrix:
      return burst_tdpbusd();
    case Mac::kByte:
      return isa == Isa::kAvxVnni ? burst_vpdpbusd_256() : burst_vpdpbusd();
    case Mac::kPair:
      return burst_vpmaddwd();
    case Mac::kFloat:
      return isa == Isa::kAvxVnni || isa == Isa::kAvx2 ? burst_fma_256() : burst_fma_512();
    case Mac::kScalar:
      return burst_mulss();
  }
  return 0;
}

}  // namespace quire::micro
