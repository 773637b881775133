// A read of memory and nothing else: the speed that no kernel can exceed which has to see every byte.
//
// Which form of loop reaches the memory's speed depends on the machine, so several are tried on the very
// bytes and the fastest is kept for others of like size. Thread safety: made by one thread at a time,
// immutable then; `read` may run on many threads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bench/micro/team.h"

namespace quire::micro {

class PlainRead {
 public:
  // bytes: 64-byte aligned, to be read by all threads of the team.
  PlainRead(std::span<const uint8_t> bytes, Team& team);

  // Reads the share of `thread`: contiguous, as large as every other's.
  void read(uint32_t thread) const;

 private:
  using Form = uint64_t (*)(const uint8_t* bytes, size_t count);

  static std::vector<Form> forms();
  std::span<const uint8_t> share(uint32_t thread) const;

  std::span<const uint8_t> bytes_;
  uint32_t threads_;
  Form form_;
};

}  // namespace quire::micro
