#include "offload/named_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>

#include "offload/file_descriptor.h"
#include "offload/os_error.h"

namespace quire {
namespace {

class OsNamedFile final : public NamedFile {
 public:
  OsNamedFile(FileDescriptor fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  int fd() const override { return fd_.get(); }

  Result<uint64_t> size() override {
    struct stat info {};
    if (::fstat(fd_.get(), &info) != 0) return failed("looked at", errno);
    return static_cast<uint64_t>(info.st_size);
  }

  Status resize(uint64_t bytes) override {
    if (::ftruncate(fd_.get(), static_cast<off_t>(bytes)) == 0) return {};
    return failed("made " + std::to_string(bytes) + " bytes long", errno);
  }

  bool turn_off_direct() override {
    const int flags = ::fcntl(fd_.get(), F_GETFL);
    return flags >= 0 && (flags & O_DIRECT) != 0 && ::fcntl(fd_.get(), F_SETFL, flags & ~O_DIRECT) == 0;
  }

  const std::string& name() const override { return path_; }

 private:
  Status failed(const std::string& what, int error) const {
    return {StatusCode::kIo, "the store '" + path_ + "' cannot be " + what + ": " + os_error_text(error)};
  }

  FileDescriptor fd_;
  std::string path_;
};

}  // namespace

Result<std::unique_ptr<NamedFile>> open_named_file(const std::string& path) {
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
  return std::unique_ptr<NamedFile>(std::make_unique<OsNamedFile>(std::move(fd), path));
}

}  // namespace quire
