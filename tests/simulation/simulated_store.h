// A named file in memory, for stores on a simulated disk: its image outlives it, as a disk outlives
// processes. Thread safety: one thread.
#pragma once

#include <string>

#include "offload/named_file.h"
#include "tests/simulation/simulated_disk.h"

namespace quire::testing {

class SimulatedFile final : public NamedFile {
 public:
  explicit SimulatedFile(DiskImage& image) : image_(image) {}

  int fd() const override { return -1; }
  Result<uint64_t> size() override { return image_.size(); }
  Status resize(uint64_t bytes) override {
    image_.resize(bytes);
    return {};
  }
  bool turn_off_direct() override { return false; }
  const std::string& name() const override { return name_; }

 private:
  DiskImage& image_;
  std::string name_ = "simulated";
};

}  // namespace quire::testing
