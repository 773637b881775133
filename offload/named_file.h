// The one named file of a persistent store as the system sees it: opened for this process alone, its length.
//
// What moves its bytes is an io engine over fd() (timed_store_file.h). Thread safety: one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kvcache/status.h"

namespace quire {

class NamedFile {
 public:
  virtual ~NamedFile() = default;

  // For an io engine; the file keeps it open.
  virtual int fd() const = 0;
  virtual Result<uint64_t> size() = 0;
  // Cuts the file or lengthens it with zeros.
  virtual Status resize(uint64_t bytes) = 0;
  // Some file systems accept O_DIRECT and refuse the transfer. False when it was off already.
  virtual bool turn_off_direct() = 0;
  // For messages.
  virtual const std::string& name() const = 0;
};

// Opens the file, or makes it, for this process alone: kInvalid when another one, or another cache of this
// one, has it open. The lock goes with the process, however that ends. Where the file system can, reads and
// writes bypass the page cache.
Result<std::unique_ptr<NamedFile>> open_named_file(const std::string& path);

}  // namespace quire
