// The spill file: a file without a name, so that nothing is left of it after the process, however that ends.
//
// Invariants: it is exactly `bytes` long (sparse at first) and never longer. direct() tells whether reads and
// writes bypass the page cache (O_DIRECT) and so must be aligned to kRunAlign. Thread safety: a value that
// one thread at a time may touch; the descriptor may be used by any.
#pragma once

#include <cstdint>
#include <string>

#include "kvcache/status.h"
#include "offload/file_descriptor.h"

namespace quire {

class ExtentFile {
 public:
  // In an existing, writable directory. kInvalid or kIo with the way out when it cannot be made that long
  // there.
  static Result<ExtentFile> create(const std::string& directory, uint64_t bytes);

  int fd() const { return fd_.get(); }
  bool direct() const { return direct_; }

 private:
  ExtentFile(FileDescriptor fd, bool direct) : fd_(std::move(fd)), direct_(direct) {}

  FileDescriptor fd_;
  bool direct_ = false;
};

// A file whose name is taken away at once: how create does it where the file system has no O_TMPFILE. Not
// valid(), and errno, when the directory cannot take a file.
FileDescriptor open_unlinked(const std::string& directory);

}  // namespace quire
