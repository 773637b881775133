#include "offload/extent_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cerrno>

#include "tests/offload/support.h"

namespace quire::testing {
namespace {

TEST(ExtentFile, HasNoNameAndItsFullLength) {
  ScratchDirectory directory;
  const size_t before = open_descriptors();
  {
    const auto file = ExtentFile::create(directory.path(), 1 << 20);
    ASSERT_TRUE(file.ok()) << file.status().message();
    EXPECT_TRUE(directory.empty());
    struct stat info {};
    ASSERT_EQ(::fstat(file->fd(), &info), 0);
    EXPECT_EQ(info.st_size, 1 << 20);
    EXPECT_EQ(info.st_nlink, 0U);
    EXPECT_EQ(info.st_blocks, 0);
    EXPECT_EQ(info.st_mode & 0777U, 0600U);
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST(ExtentFile, DirectSaysWhetherTransfersBypassThePageCache) {
  ScratchDirectory directory;
  for (const std::string& path : {directory.path(), std::string("/dev/shm")}) {
    const auto file = ExtentFile::create(path, 1 << 20);
    ASSERT_TRUE(file.ok()) << file.status().message();
    EXPECT_EQ(file->direct(), (::fcntl(file->fd(), F_GETFL) & O_DIRECT) != 0) << path;
    AlignedBytes block(4096);
    EXPECT_EQ(::pwrite(file->fd(), block.data(), 4096, 4096), 4096) << path;
  }
}

TEST(ExtentFile, WithoutNamelessFilesTheNameIsTakenAwayAtOnce) {
  ScratchDirectory directory;
  const FileDescriptor fd = open_unlinked(directory.path());
  ASSERT_TRUE(fd.valid());
  EXPECT_TRUE(directory.empty());
  struct stat info {};
  ASSERT_EQ(::fstat(fd.get(), &info), 0);
  EXPECT_EQ(info.st_nlink, 0U);
  EXPECT_EQ(::pwrite(fd.get(), "abc", 3, 0), 3);
  EXPECT_FALSE(open_unlinked(directory.path() + "/missing").valid());
  EXPECT_EQ(errno, ENOENT);
}

TEST(ExtentFile, AFileSystemThatTakesNoFilesIsAnError) {
  EXPECT_EQ(ExtentFile::create("/proc/self", 1 << 20).status().code(), StatusCode::kIo);
}

TEST(ExtentFile, BadDirectoriesAreNamed) {
  ScratchDirectory directory;
  for (const std::string& path : {directory.path() + "/missing", std::string("/dev/null"), std::string()}) {
    const auto file = ExtentFile::create(path, 1 << 20);
    ASSERT_FALSE(file.ok());
    EXPECT_EQ(file.status().code(), StatusCode::kIo);
    EXPECT_NE(file.status().message().find("'" + path + "'"), std::string::npos) << file.status().message();
  }
}

TEST(ExtentFile, ALengthThatTheFileSystemRefusesIsAnError) {
  ScratchDirectory directory;
  const auto file = ExtentFile::create(directory.path(), uint64_t{1} << 62);
  EXPECT_EQ(file.status().code(), StatusCode::kIo);
  EXPECT_NE(file.status().message().find("lower the disk budget"), std::string::npos)
      << file.status().message();
  EXPECT_TRUE(directory.empty());
}

TEST(ExtentFile, TheLimitOnFileSizeIsRespectedInsteadOfDyingOfIt) {
  ScratchDirectory directory;
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit tight{1 << 16, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  const auto file = ExtentFile::create(directory.path(), 1 << 20);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(file.status().code(), StatusCode::kInvalid);
}

}  // namespace
}  // namespace quire::testing
