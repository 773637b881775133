// CUDA's small vectors, with its alignments, and what makes them.
#pragma once

#include <cstdint>

#define EMU_VECTOR1(NAME, T, ALIGN)                                     \
  struct alignas(ALIGN) NAME##2 {                                       \
    T x, y;                                                             \
  };                                                                    \
  struct NAME##3 {                                                      \
    T x, y, z;                                                          \
  };                                                                    \
  struct alignas((ALIGN)*2) NAME##4 {                                   \
    T x, y, z, w;                                                       \
  };                                                                    \
  constexpr NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }         \
  constexpr NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; } \
  constexpr NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTOR1(int, int, 8)
EMU_VECTOR1(uint, unsigned, 8)
EMU_VECTOR1(float, float, 8)
#undef EMU_VECTOR1

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_of = 1, unsigned y_of = 1, unsigned z_of = 1) : x(x_of), y(y_of), z(z_of) {}
};
