// The limits of the devices that Quire is built for (compute capability 8.0 and later).
#pragma once

#include <cstddef>

namespace emu {

inline constexpr unsigned kBlockThreads = 1024;
inline constexpr size_t kStaticSharedLimit = size_t{48} * 1024;
inline constexpr size_t kSharedWithoutOptIn = size_t{48} * 1024;
// The least of them: compute capability 12.0 has 99 KiB, 8.0 has 163, 9.0 and 10.0 have 227.
inline constexpr size_t kSharedWithOptIn = size_t{99} * 1024;

}  // namespace emu
