#include "offload/extent_file.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "offload/os_error.h"
#include "offload/tier.h"

namespace quire {
namespace {

FileDescriptor open_nameless(const std::string& directory) {
  FileDescriptor fd(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, S_IRUSR | S_IWUSR));
  if (fd.valid() || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return fd;
  return open_unlinked(directory);
}

// Some file systems accept the flag and refuse the transfer, so one is tried. The file has kRunAlign bytes at
// least.
bool turn_on_direct(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_DIRECT) != 0) return false;
  alignas(kRunAlign) std::array<uint8_t, kRunAlign> block;
  if (::pread(fd, block.data(), block.size(), 0) == static_cast<ssize_t>(block.size())) return true;
  // Turning a flag off that was just turned on cannot fail.
  [[maybe_unused]] const int result = ::fcntl(fd, F_SETFL, flags);
  return false;
}

// A process that writes beyond the limit is killed, so the limit is asked first.
Status check_size_limit(uint64_t bytes) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || bytes <= limit.rlim_cur)
    return {};
  return invalid("the disk budget of " + std::to_string(bytes) +
                 " bytes is beyond this process's limit on file size, " + std::to_string(limit.rlim_cur) +
                 "; lower the budget or raise ulimit -f");
}

}  // namespace

FileDescriptor open_unlinked(const std::string& directory) {
  // The name lives for the moment between the two calls.
  std::string path = directory + "/quire-spill-XXXXXX";
  FileDescriptor fd(::mkostemp(path.data(), O_CLOEXEC));
  if (!fd.valid() || ::unlink(path.c_str()) == 0) return fd;
  const int error = errno;
  fd = FileDescriptor();
  errno = error;
  return FileDescriptor();
}

Result<ExtentFile> ExtentFile::create(const std::string& directory, uint64_t bytes) {
  if (bytes < kRunAlign)
    return invalid("a spill file needs at least " + std::to_string(kRunAlign) + " bytes");
  if (Status status = check_size_limit(bytes); !status.ok()) return status;
  FileDescriptor fd = open_nameless(directory);
  if (!fd.valid()) {
    return Status(StatusCode::kIo, "no spill file can be made in '" + directory +
                                       "': " + os_error_text(errno) +
                                       "; name an existing directory that this process may write to");
  }
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return Status(StatusCode::kIo, "the file system of '" + directory + "' does not take a file of " +
                                       std::to_string(bytes) + " bytes: " + os_error_text(errno) +
                                       "; lower the disk budget");
  }
  const bool direct = turn_on_direct(fd.get());
  return ExtentFile(std::move(fd), direct);
}

}  // namespace quire
