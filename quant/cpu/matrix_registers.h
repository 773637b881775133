// AMX: eight registers of sixteen rows of 64 bytes, and the products of bytes between them. (Intel calls them
// tiles; here a tile is of queries.) Everything is assembly: the intrinsics of GCC 12 do not say that they
// touch memory, and so no target attribute is needed. Only where find_amx_kernels() found a table.
// Thread safety: the registers are the thread's own.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quire {

inline constexpr uint32_t kMatrixRegisters = 8;
inline constexpr uint32_t kMatrixRows = 16;
inline constexpr size_t kMatrixRowBytes = 64;

// Rows of queries from which on they serve attention: fewer do not repay the levels that are stored for them.
inline constexpr uint32_t kLeastMatrixRows = 16;

// While it lives, all registers have their full size. Setting them takes 80 ns.
class MatrixRegisters {
 public:
  MatrixRegisters() {
    Shapes shapes;
    for (size_t i = 0; i < kMatrixRegisters; ++i) {
      shapes.row_bytes[i] = kMatrixRowBytes;
      shapes.rows[i] = kMatrixRows;
    }
    asm volatile("ldtilecfg %0" : : "m"(shapes));
  }
  ~MatrixRegisters() { asm volatile("tilerelease"); }
  MatrixRegisters(const MatrixRegisters&) = delete;
  MatrixRegisters& operator=(const MatrixRegisters&) = delete;

 private:
  struct alignas(64) Shapes {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };
};

// `stride` bytes from row to row.
template <uint32_t kTo>
[[gnu::always_inline]] inline void load_matrix(const void* rows, size_t stride) {
  asm volatile("tileloadd (%0, %1, 1), %%tmm%c2" : : "r"(rows), "r"(stride), "i"(kTo) : "memory");
}
template <uint32_t kFrom>
[[gnu::always_inline]] inline void store_matrix(int32_t* rows, size_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0, %1, 1)" : : "r"(rows), "r"(stride), "i"(kFrom) : "memory");
}
template <uint32_t kTo>
[[gnu::always_inline]] inline void clear_matrix() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTo));
}

// sum[r][lane] += the products of a[r][4 k + i] and b[k][4 lane + i] over sixteen k and four i. Sixteen
// cycles.
template <uint32_t kSum, uint32_t kA, uint32_t kB>
[[gnu::always_inline]] inline void multiply_signed_unsigned() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
}
template <uint32_t kSum, uint32_t kA, uint32_t kB>
[[gnu::always_inline]] inline void multiply_unsigned_signed() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
}

}  // namespace quire
