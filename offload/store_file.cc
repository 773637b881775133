#include "offload/store_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>

#include "offload/file_descriptor.h"
#include "offload/os_error.h"
#include "offload/tier.h"

namespace quire {
namespace {

class OsStoreFile final : public StoreFile {
 public:
  OsStoreFile(FileDescriptor fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  Status read(uint64_t offset, std::span<uint8_t> bytes) override {
    while (!bytes.empty()) {
      const ssize_t got = ::pread(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && errno == EINVAL && turn_off_direct()) continue;
      if (got < 0) return failed("read from", errno);
      if (got == 0) return {StatusCode::kIo, "'" + path_ + "' ends before byte " + std::to_string(offset)};
      bytes = bytes.subspan(static_cast<size_t>(got));
      offset += static_cast<uint64_t>(got);
    }
    return {};
  }

  Status write(uint64_t offset, std::span<const uint8_t> bytes) override {
    while (!bytes.empty()) {
      const ssize_t put = ::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (put < 0 && errno == EINTR) continue;
      if (put < 0 && errno == EINVAL && turn_off_direct()) continue;
      if (put <= 0) return failed("written to", put < 0 ? errno : EIO);
      bytes = bytes.subspan(static_cast<size_t>(put));
      offset += static_cast<uint64_t>(put);
    }
    return {};
  }

  Status sync() override {
    if (::fdatasync(fd_.get()) == 0) return {};
    return failed("synced", errno);
  }

  Result<uint64_t> size() override {
    struct stat info {};
    if (::fstat(fd_.get(), &info) != 0) return failed("looked at", errno);
    return static_cast<uint64_t>(info.st_size);
  }

  Status resize(uint64_t bytes) override {
    if (::ftruncate(fd_.get(), static_cast<off_t>(bytes)) == 0) return {};
    return failed("made " + std::to_string(bytes) + " bytes long", errno);
  }

  const std::string& name() const override { return path_; }

 private:
  Status failed(const std::string& what, int error) const {
    return {StatusCode::kIo, "the store '" + path_ + "' cannot be " + what + ": " + os_error_text(error)};
  }
  // Some file systems accept the flag and refuse the transfer. False when it was off already.
  bool turn_off_direct() const {
    const int flags = ::fcntl(fd_.get(), F_GETFL);
    return flags >= 0 && (flags & O_DIRECT) != 0 && ::fcntl(fd_.get(), F_SETFL, flags & ~O_DIRECT) == 0;
  }

  FileDescriptor fd_;
  std::string path_;
};

}  // namespace

Result<std::unique_ptr<StoreFile>> open_store_file(const std::string& path) {
  FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, S_IRUSR | S_IWUSR));
  if (!fd.valid()) {
    return Status(StatusCode::kIo, "the store '" + path + "' cannot be opened: " + os_error_text(errno) +
                                       "; name a file that this process may read and write");
  }
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode))
    return invalid("the store '" + path + "' is not a regular file; name one, or one that is to be made");
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return invalid("the store '" + path +
                   "' is in use by another process or cache; close that one or name another file");
  }
  const int flags = ::fcntl(fd.get(), F_GETFL);
  // Without the flag everything works, only through the page cache.
  [[maybe_unused]] const int direct = flags < 0 ? -1 : ::fcntl(fd.get(), F_SETFL, flags | O_DIRECT);
  return std::unique_ptr<StoreFile>(std::make_unique<OsStoreFile>(std::move(fd), path));
}

}  // namespace quire
