// How many multiply-accumulates a second this machine can do, with the instruction that a table multiplies
// with: independent accumulators in registers, no loads, nothing else. No product can take less time.
// Thread safety: pure functions; run may work on many threads.
#pragma once

#include <cstdint>

#include "quant/kernels.h"

namespace quire::micro {

enum class Mac : uint8_t {
  kByte,    // avx512, avxvnni and few rows of amx: vpdpbusd, bytes by bytes
  kPair,    // avx2: vpmaddwd and vpaddd, 16 bits by 16 bits
  kFloat,   // vfmadd of 512 or 256 bits
  kScalar,  // mulss and addss
  kMatrix   // amx: tdpbusd, bytes by bytes
};
inline constexpr int kMacKinds = 5;

// What `isa` multiplies integer codes with, and floats.
Mac integer_mac(Isa isa);
Mac float_mac(Isa isa);

// One burst of about a millisecond on the calling thread: how many multiply-accumulates it did.
uint64_t mac_burst(Isa isa, Mac mac);

}  // namespace quire::micro
