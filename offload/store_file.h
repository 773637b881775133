// The seam to the file of a persistent store: reads and writes that have ended, or have failed, when they
// return.
//
// Invariants: a transfer moves everything or reports an error; the caller's memory is its own again in any
// case; what sync covers survives the machine. kDeadline: the disk did not answer in time, or still owes the
// answer to an earlier request; until it comes nothing else is asked of the file, so that a late write cannot
// hit what was written after it. Offsets, lengths and addresses are multiples of kRunAlign, so that a file
// may bypass the page cache. Thread safety: one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "kvcache/status.h"

namespace quire {

class StoreFile {
 public:
  virtual ~StoreFile() = default;

  // Beyond the end of the file, kIo.
  virtual Status read(uint64_t offset, std::span<uint8_t> bytes) = 0;
  virtual Status write(uint64_t offset, std::span<const uint8_t> bytes) = 0;
  virtual Status sync() = 0;
  virtual Result<uint64_t> size() = 0;
  // Cuts the file or lengthens it with zeros.
  virtual Status resize(uint64_t bytes) = 0;
  // For messages.
  virtual const std::string& name() const = 0;
};

}  // namespace quire
