// What the tests of offload/ share: a clock to step, aligned memory, scratch directories, known bytes.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <array>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kvcache/clock.h"
#include "offload/io_engine.h"

namespace quire::testing {

using namespace std::chrono_literals;

// Stands still until it is told to move.
class StepClock final : public Clock {
 public:
  Nanoseconds now() const override { return now_; }
  void advance(Nanoseconds by) { now_ = now_.load() + by; }

 private:
  std::atomic<Nanoseconds> now_{1s};
};

inline const SteadyClock& steady_clock() {
  static const SteadyClock clock;
  return clock;
}

// Zeroed memory at a multiple of 4096.
class AlignedBytes {
 public:
  explicit AlignedBytes(size_t size) : blocks_((size + sizeof(Block) - 1) / sizeof(Block)), size_(size) {}
  uint8_t* data() { return reinterpret_cast<uint8_t*>(blocks_.data()); }
  std::span<uint8_t> span() { return {data(), size_}; }
  size_t size() const { return size_; }
  std::span<uint8_t> part(size_t offset, size_t bytes) { return span().subspan(offset, bytes); }

 private:
  struct alignas(4096) Block : std::array<uint8_t, 4096> {};
  std::vector<Block> blocks_;
  size_t size_;
};

// Bytes that differ from seed to seed.
inline void fill_random(std::span<uint8_t> bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (size_t i = 0; i < bytes.size(); i += 8) {
    const uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, std::min<size_t>(8, bytes.size() - i));
  }
}

// An empty directory that vanishes with its owner.
class ScratchDirectory {
 public:
  ScratchDirectory() : path_(std::filesystem::temp_directory_path() / "quire-test-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) ADD_FAILURE() << "no scratch directory " << path_;
  }
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;

  const std::string& path() const { return path_; }
  bool empty() const { return std::filesystem::is_empty(path_); }

 private:
  std::string path_;
};

inline size_t open_descriptors() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

// Polls until `count` completions have come, at most 20 seconds.
template <typename Pollable>
std::vector<Completion> collect(Pollable& source, size_t count) {
  std::vector<Completion> all;
  const auto end = std::chrono::steady_clock::now() + 20s;
  while (all.size() < count && std::chrono::steady_clock::now() < end) {
    std::array<Completion, 16> some;
    const auto polled = source.poll(some, 100ms);
    if (!polled.ok()) {
      ADD_FAILURE() << polled.status().message();
      break;
    }
    all.insert(all.end(), some.begin(), some.begin() + static_cast<std::ptrdiff_t>(*polled));
  }
  EXPECT_EQ(all.size(), count);
  all.resize(count);
  return all;
}

}  // namespace quire::testing
