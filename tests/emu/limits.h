// The limits of the devices that Quire is built for (compute capability 8.0 and later).
#pragma once

#include <cstddef>

namespace emu {

inline constexpr unsigned kBlockThreads = 1024;
inline constexpr size_t kStaticSharedLimit = size_t{48} * 1024;
inline constexpr size_t kSharedWithoutOptIn = size_t{48} * 1024;
// The least of them: compute capability 12.0 has 99 KiB, 8.0 has 163, 9.0 and 10.0 have 227. What runs on 9.0
// alone may have as much as that.
constexpr size_t shared_with_opt_in(int capability) { return size_t{capability == 9 ? 227U : 99U} * 1024; }

}  // namespace emu
