// A store file in memory that can fail, and whose bytes a test can reach. Thread safety: one thread.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "offload/store_file.h"

namespace quire::testing {

// The bytes outlive the files over them, as a disk outlives processes.
struct MemoryDisk {
  std::vector<uint8_t> bytes;
  uint64_t full_at = UINT64_MAX;  // writes that reach beyond fail
  int64_t writes_left = -1;       // then all fail; below 0: no limit
  bool torn = false;              // the first write that fails has moved its first half
  int64_t reads_left = -1;
  uint64_t syncs = 0;
};

class MemoryStoreFile final : public StoreFile {
 public:
  explicit MemoryStoreFile(MemoryDisk& disk) : disk_(disk) {}

  Status read(uint64_t offset, std::span<uint8_t> out) override {
    if (disk_.reads_left == 0) return {StatusCode::kIo, "the disk cannot be read"};
    if (disk_.reads_left > 0) --disk_.reads_left;
    if (offset + out.size() > disk_.bytes.size()) return {StatusCode::kIo, "the file ends early"};
    std::copy_n(disk_.bytes.begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
    return {};
  }
  Status write(uint64_t offset, std::span<const uint8_t> in) override {
    if (disk_.writes_left == 0 || offset + in.size() > disk_.full_at) {
      if (disk_.torn) put(offset, in.first(in.size() / 2));
      disk_.torn = false;
      return {StatusCode::kIo, "the disk cannot be written"};
    }
    if (disk_.writes_left > 0) --disk_.writes_left;
    put(offset, in);
    return {};
  }
  Status sync() override {
    ++disk_.syncs;
    return {};
  }
  Result<uint64_t> size() override { return uint64_t{disk_.bytes.size()}; }
  Status resize(uint64_t bytes) override {
    disk_.bytes.resize(bytes);
    return {};
  }
  const std::string& name() const override { return name_; }

 private:
  void put(uint64_t offset, std::span<const uint8_t> in) {
    disk_.bytes.resize(std::max<uint64_t>(disk_.bytes.size(), offset + in.size()));
    std::copy(in.begin(), in.end(), disk_.bytes.begin() + static_cast<ptrdiff_t>(offset));
  }

  MemoryDisk& disk_;
  std::string name_ = "memory";
};

}  // namespace quire::testing
