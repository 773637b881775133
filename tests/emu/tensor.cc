// Matrix instructions: the 32 lanes' fragments are gathered, multiplied and dealt out again.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <emu_ptx.h>

#include <array>

#include "tests/emu/sanitizer.h"

namespace emu {
namespace {

struct BytesIn {
  const uint32_t* a;
  const uint32_t* b;
  const int* c;
};
struct HalvesIn {
  const uint32_t* a;
  const uint32_t* b;
  const float* c;
};

template <bool kSigned>
int byte_of(uint32_t word, unsigned i) {
  const auto bits = static_cast<uint8_t>(word >> (8 * i));
  return kSigned ? static_cast<int8_t>(bits) : static_cast<int>(bits);
}

template <bool kBf16>
float half_of(uint32_t word, unsigned i) {
  const auto bits = static_cast<unsigned short>(word >> (16 * i));
  return kBf16 ? __bfloat162float(__ushort_as_bfloat16(bits)) : __half2float(__ushort_as_half(bits));
}

// Element (row, column) of the accumulator that register r of a lane holds.
struct Place {
  unsigned row;
  unsigned column;
};
Place accumulator_place(unsigned lane, unsigned r) { return {lane / 4 + r / 2 * 8, lane % 4 * 2 + r % 2}; }

// Sums are taken modulo 2^32, as without .satfinite.
template <bool kASigned, bool kBSigned>
void combine_bytes(const void* const* in, void* const* out, unsigned /*mask*/) {
  std::array<std::array<int, 32>, 16> a{};
  std::array<std::array<int, 32>, 8> b{};  // by column
  for (unsigned lane = 0; lane < 32; ++lane) {
    const auto& mine = *static_cast<const BytesIn*>(in[lane]);
    for (unsigned r = 0; r < 4; ++r) {
      for (unsigned i = 0; i < 4; ++i) {
        a[lane / 4 + r % 2 * 8][lane % 4 * 4 + r / 2 * 16 + i] = byte_of<kASigned>(mine.a[r], i);
      }
    }
    for (unsigned r = 0; r < 2; ++r) {
      for (unsigned i = 0; i < 4; ++i)
        b[lane / 4][lane % 4 * 4 + r * 16 + i] = byte_of<kBSigned>(mine.b[r], i);
    }
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    const int* c = static_cast<const BytesIn*>(in[lane])->c;
    for (unsigned r = 0; r < 4; ++r) {
      const auto [row, column] = accumulator_place(lane, r);
      int sum = 0;
      for (unsigned k = 0; k < 32; ++k) sum += a[row][k] * b[column][k];
      static_cast<int*>(out[lane])[r] =
          static_cast<int>(static_cast<unsigned>(sum) + static_cast<unsigned>(c[r]));
    }
  }
}

// The hardware sums products exactly and rounds once or twice in an order of its own: f64 stands for it.
template <bool kBf16>
void combine_halves(const void* const* in, void* const* out, unsigned /*mask*/) {
  std::array<std::array<float, 16>, 16> a{};
  std::array<std::array<float, 16>, 8> b{};
  for (unsigned lane = 0; lane < 32; ++lane) {
    const auto& mine = *static_cast<const HalvesIn*>(in[lane]);
    for (unsigned r = 0; r < 4; ++r) {
      for (unsigned i = 0; i < 2; ++i) {
        a[lane / 4 + r % 2 * 8][lane % 4 * 2 + r / 2 * 8 + i] = half_of<kBf16>(mine.a[r], i);
      }
    }
    for (unsigned r = 0; r < 2; ++r) {
      for (unsigned i = 0; i < 2; ++i) b[lane / 4][lane % 4 * 2 + r * 8 + i] = half_of<kBf16>(mine.b[r], i);
    }
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    const float* c = static_cast<const HalvesIn*>(in[lane])->c;
    for (unsigned r = 0; r < 4; ++r) {
      const auto [row, column] = accumulator_place(lane, r);
      double sum = double{c[r]};
      for (unsigned k = 0; k < 16; ++k) sum += double{a[row][k]} * double{b[column][k]};
      static_cast<float*>(out[lane])[r] = static_cast<float>(sum);
    }
  }
}

void combine_matrices(const void* const* in, void* const* out, unsigned /*mask*/) {
  for (unsigned lane = 0; lane < 32; ++lane) {
    for (unsigned matrix = 0; matrix < 4; ++matrix) {
      std::memcpy(static_cast<uint32_t*>(out[lane]) + matrix,
                  static_cast<const char*>(in[matrix * 8 + lane / 4]) + lane % 4 * 4, 4);
    }
  }
}

constexpr unsigned kWholeWarp = 0xFFFFFFFFU;

}  // namespace

void mma_bytes(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool a_signed, bool b_signed,
               const Site& site) {
  const BytesIn in{a, b, d};
  std::array<int, 4> out{};
  const Combine combine = a_signed ? (b_signed ? combine_bytes<true, true> : combine_bytes<true, false>)
                                   : (b_signed ? combine_bytes<false, true> : combine_bytes<false, false>);
  warp_collective("mma.m16n8k32", kWholeWarp, &in, out.data(), combine, false, site);
  std::memcpy(d, out.data(), sizeof(d));
}

void mma_halves(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool bf16, const Site& site) {
  const HalvesIn in{a, b, d};
  std::array<float, 4> out{};
  warp_collective("mma.m16n8k16", kWholeWarp, &in, out.data(),
                  bf16 ? combine_halves<true> : combine_halves<false>, false, site);
  std::memcpy(d, out.data(), sizeof(d));
}

void load_matrices(uint32_t (&r)[4], const void* row, const Site& site) {
  check_aligned(row, 16, "ldmatrix");
  if (!is_shared(row, 16)) fail("ldmatrix: the row is not in shared memory");
  sanitizer::will_read(row, 16);
  std::array<uint32_t, 4> out{};
  warp_collective("ldmatrix.x4", kWholeWarp, row, out.data(), combine_matrices, false, site);
  std::memcpy(r, out.data(), sizeof(r));
}

}  // namespace emu
