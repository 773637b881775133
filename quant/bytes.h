// Little-endian fields in byte arrays of any alignment. Thread safety: pure functions.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace quire {

static_assert(std::endian::native == std::endian::little, "Quire's kernels read fields in place");

template <typename T>
T load_le(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

template <typename T>
void store_le(uint8_t* at, T value) {
  std::memcpy(at, &value, sizeof(T));
}

}  // namespace quire
