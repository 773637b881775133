// The instruction sets that tests go through: those of this architecture, slowest first. One that the machine
// lacks is a skip; one of another architecture is no test at all.
#pragma once

#include <array>

#include "quant/kernels.h"

namespace quire::test {

#if defined(__aarch64__)
inline constexpr std::array kIsas{Isa::kScalar, Isa::kNeon};
inline constexpr std::array kSimdIsas{Isa::kNeon};
inline constexpr std::array kForeignIsas{Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512, Isa::kAmx};
#else
inline constexpr std::array kIsas{Isa::kScalar, Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512, Isa::kAmx};
inline constexpr std::array kSimdIsas{Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512, Isa::kAmx};
inline constexpr std::array kForeignIsas{Isa::kNeon};
#endif
static_assert(kIsas.size() + kForeignIsas.size() == kIsaCount);

}  // namespace quire::test
