#include "bench/qwen3/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <system_error>
#include <utility>

#include "bench/qwen3/error.h"

namespace quire::qwen3 {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, int error) {
  throw Error("cannot read " + path.string() + ": " + std::generic_category().message(error));
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(path, errno);
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    const int error = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
    close(fd);
    fail(path, error);
  }
  const auto size = static_cast<size_t>(info.st_size);
  if (size == 0) {
    close(fd);
    throw Error(path.string() + " is empty; fetch it again");
  }
  void* const data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int error = errno;
  close(fd);
  if (data == MAP_FAILED) fail(path, error);
  bytes_ = {static_cast<const std::byte*>(data), size};
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void forget_mapped(std::span<const std::byte> part) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  // Only pages that lie in the part as a whole: the others may hold a neighbour that is still to be read.
  const size_t skipped = (page - reinterpret_cast<uintptr_t>(part.data()) % page) % page;
  if (part.size() < skipped + page) return;
  const auto whole = part.subspan(skipped, (part.size() - skipped) / page * page);
  // Advice only: a refusal costs memory, nothing else.
  (void)madvise(const_cast<std::byte*>(whole.data()), whole.size(), MADV_DONTNEED);
}

}  // namespace quire::qwen3
