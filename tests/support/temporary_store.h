// A name for a store file in the temporary folder, and the end of the file with it. Thread safety: a value of
// one thread.
#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace quire::testing {

class TemporaryStore {
 public:
  TemporaryStore() {
    std::string folder = (std::filesystem::temp_directory_path() / "quire-store-XXXXXX").string();
    if (::mkdtemp(folder.data()) == nullptr) std::abort();
    folder_ = folder;
  }
  TemporaryStore(const TemporaryStore&) = delete;
  TemporaryStore& operator=(const TemporaryStore&) = delete;
  ~TemporaryStore() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  std::string path() const { return (folder_ / "blocks.quire").string(); }

 private:
  std::filesystem::path folder_;
};

}  // namespace quire::testing
