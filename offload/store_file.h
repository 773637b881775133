// The seam to the one named file of a persistent store: reads and writes that have ended when they return.
//
// Invariants: a transfer moves everything or reports an error; what sync covers survives the machine.
// Offsets, lengths and addresses are multiples of kRunAlign, so that a file may bypass the page cache. Thread
// safety: one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
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

// Opens the file, or makes it, for this process alone: kInvalid when another one, or another cache of this
// one, has it open. The lock goes with the process, however that ends. Where the file system can, reads and
// writes bypass the page cache.
Result<std::unique_ptr<StoreFile>> open_store_file(const std::string& path);

}  // namespace quire
