// A file mapped read-only into memory.
// Invariant: bytes() is the whole file as it was when it was opened. Thread safety: const calls from
// anywhere.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace quire::qwen3 {

class MappedFile {
 public:
  // Throws Error when the file cannot be opened or is empty.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

// Lets the kernel take back the memory behind part of a mapped file; it can still be read.
void forget_mapped(std::span<const std::byte> part);

}  // namespace quire::qwen3
