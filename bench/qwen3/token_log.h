// The tokens of a session, in blocks that its forks share: what they have in common is in memory once.
//
// Invariant: a block is full, or the last one of every log that has it; a log that goes on from a shared
// block that is not full takes its own copy. Thread safety: one thread for a log and its copies.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace quire::qwen3 {

class TokenLog {
 public:
  static constexpr size_t kBlockTokens = 4096;

  uint64_t size() const { return size_; }
  void append(std::span<const int32_t> tokens);
  // Tokens [first, first + count), which the log has.
  std::vector<int32_t> copy(uint64_t first, uint64_t count) const;

 private:
  using Block = std::array<int32_t, kBlockTokens>;
  std::vector<std::shared_ptr<Block>> blocks_;
  uint64_t size_ = 0;
};

}  // namespace quire::qwen3
