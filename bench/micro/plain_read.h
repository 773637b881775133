// A read of memory and nothing else: the speed that no kernel can exceed which has to see every byte.
//
// Which form of loop reaches the memory's speed depends on the machine, so several are tried on the very
// bytes and the fastest is kept. Thread safety: immutable once made; `read` may run on many threads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bench/micro/team.h"

namespace quire::micro {

class PlainRead {
 public:
  // Tries every form with the team over `bytes` (64-byte aligned).
  PlainRead(std::span<const uint8_t> bytes, Team& team);

  // Reads the share of `thread`: contiguous, as large as every other's.
  void read(uint32_t thread) const;

 private:
  using Form = uint64_t (*)(const uint8_t* bytes, size_t count);

  std::span<const uint8_t> share(uint32_t thread) const;

  std::span<const uint8_t> bytes_;
  uint32_t threads_;
  Form form_;
};

}  // namespace quire::micro
