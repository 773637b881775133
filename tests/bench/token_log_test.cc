// Logs that are copied and go on apart, against vectors that are.
#include "bench/qwen3/token_log.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <random>

namespace quire::qwen3 {
namespace {

struct Twin {
  TokenLog log;
  std::vector<int32_t> tokens;
};

void expect_same(const Twin& twin) {
  ASSERT_EQ(twin.log.size(), twin.tokens.size());
  ASSERT_EQ(twin.log.copy(0, twin.log.size()), twin.tokens);
}

TEST(TokenLog, CopiesGoOnApart) {
  std::mt19937 random(3);
  std::vector<Twin> twins(1);
  uint64_t cases = 0;
  for (int i = 0; i < 300; ++i) {
    if (random() % 8 == 0 && twins.size() < 6) twins.push_back(Twin(twins[random() % twins.size()]));
    Twin& twin = twins[random() % twins.size()];
    // Often to the end of a block.
    const uint64_t left = TokenLog::kBlockTokens - twin.log.size() % TokenLog::kBlockTokens;
    std::vector<int32_t> more(random() % 4 == 0 ? left : random() % 3000);
    for (int32_t& token : more) token = static_cast<int32_t>(random() % 4096);
    twin.log.append(more);
    twin.tokens.insert(twin.tokens.end(), more.begin(), more.end());
    for (const Twin& each : twins) expect_same(each);
    ++cases;
  }
  std::printf("[counts] cases=%llu\n", static_cast<unsigned long long>(cases));
}

TEST(TokenLog, CopiesAPart) {
  std::vector<int32_t> tokens(3 * TokenLog::kBlockTokens);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i);
  TokenLog log;
  log.append(tokens);
  for (const uint64_t first : {uint64_t{0}, uint64_t{TokenLog::kBlockTokens - 1}, uint64_t{5000}}) {
    for (const uint64_t count : {uint64_t{0}, uint64_t{1}, uint64_t{TokenLog::kBlockTokens + 2}}) {
      const std::vector<int32_t> part = log.copy(first, count);
      ASSERT_EQ(part.size(), count);
      for (uint64_t i = 0; i < count; ++i) EXPECT_EQ(part[i], tokens[first + i]);
    }
  }
}

}  // namespace
}  // namespace quire::qwen3
