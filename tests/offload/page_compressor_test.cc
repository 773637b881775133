// Cold compression of single pages: what comes back, what is worth it, what is tried, what it costs.
#include "offload/page_compressor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "offload/tier.h"

namespace quire {
namespace {

constexpr uint32_t kPage = 64 << 10;

// bf16 pairs as two channels of different size: exponents repeat, mantissas do not.
std::vector<uint8_t> bf16_page(uint64_t seed, size_t bytes = kPage) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint8_t> page(bytes);
  for (size_t i = 0; i < bytes; i += 2) {
    const float x = normal(random) * (i % 4 == 0 ? 1.0F : 16.0F);
    std::memcpy(page.data() + i, reinterpret_cast<const uint8_t*>(&x) + 2, 2);
  }
  return page;
}

std::vector<uint8_t> noise_page(uint64_t seed, size_t bytes = kPage) {
  std::mt19937_64 random(seed);
  std::vector<uint8_t> page(bytes);
  for (uint8_t& byte : page) byte = static_cast<uint8_t>(random());
  return page;
}

std::unique_ptr<PageCompressor> open(Budget& budget, uint32_t level = 1, uint32_t layers = 1) {
  auto compressor = PageCompressor::create({level, kPage, layers}, budget);
  EXPECT_TRUE(compressor.ok()) << compressor.status().message();
  return std::move(*compressor);
}

// At every level and size the work space that was charged suffices: else nothing would be compressed.
TEST(PageCompressor, GivesBackEveryByteAtEveryLevel) {
  uint64_t cases = 0;
  for (uint32_t level = 1; level <= kMaxCompressionLevel; ++level) {
    for (const uint32_t largest : {4096U, 20U << 10, kPage, 160U << 10, 700U << 10}) {
      Budget budget(uint64_t{64} << 20);
      auto compressor = PageCompressor::create({level, largest, 1}, budget);
      ASSERT_TRUE(compressor.ok()) << compressor.status().message();
      for (const size_t bytes : {size_t{largest}, size_t{largest} / 2, size_t{4096}}) {
        const std::vector<uint8_t> page = bf16_page(level * 100 + bytes, bytes);
        std::vector<uint8_t> stored(bytes);
        const uint32_t size = (*compressor)->compress(0, page, stored);
        ASSERT_GT(size, 0U) << "level " << level << ", " << bytes << " bytes of at most " << largest;
        EXPECT_EQ(size % kPlaceAlign, 0U);
        EXPECT_LT(size * 20, bytes * 19);
        std::vector<uint8_t> back(bytes, 0xee);
        ASSERT_TRUE((*compressor)->expand(std::span(stored).first(size), back));
        EXPECT_EQ(back, page);
        ++cases;
      }
    }
  }
  std::printf("[counts] cases=%llu\n", static_cast<unsigned long long>(cases));
}

TEST(PageCompressor, LayersThatGainNothingAreHardlyTried) {
  Budget budget(uint64_t{64} << 20);
  const auto compressor = open(budget, 1, 2);
  std::vector<uint8_t> stored(kPage);
  constexpr uint32_t kPages = 4000;
  const std::vector<uint8_t> noise = noise_page(1);
  for (uint32_t i = 0; i < kPages; ++i) EXPECT_EQ(compressor->compress(0, noise, stored), 0U);
  EXPECT_LE(compressor->tries().pages, kPages / 100);
  EXPECT_GE(compressor->tries().packed_bytes, compressor->tries().folded_bytes);
  // The other layer is a case of its own, and pages that come to be worth it are noticed.
  const std::vector<uint8_t> page = bf16_page(2);
  EXPECT_GT(compressor->compress(1, page, stored), 0U);
  uint32_t passed = 0;
  while (compressor->compress(0, page, stored) == 0) ASSERT_LE(++passed, 256U);
  EXPECT_GT(compressor->compress(0, page, stored), 0U) << "from then on every page";
}

// A page with just so many bytes of noise that zstd saves less, or more, than 5 %.
TEST(PageCompressor, KeepsWhatSavesMoreThanFivePercent) {
  Budget budget(uint64_t{64} << 20);
  std::vector<uint8_t> stored(kPage);
  for (const uint32_t percent : {2, 4, 6, 8}) {
    std::vector<uint8_t> page = noise_page(3);
    std::fill_n(page.begin(), kPage / 100 * percent, uint8_t{0});
    const auto compressor = open(budget);
    EXPECT_EQ(compressor->compress(0, page, stored) > 0, percent > 5) << percent;
  }
}

TEST(PageCompressor, ItsMemoryIsCharged) {
  Budget budget(uint64_t{64} << 20);
  {
    const auto compressor = open(budget, 9);
    EXPECT_GT(budget.used(Use::kStaging), kPage);
    EXPECT_LT(budget.used(Use::kStaging), uint64_t{4} << 20);
  }
  EXPECT_EQ(budget.used(), 0U);
  Budget small(4096);
  const auto refused = PageCompressor::create({1, kPage, 1}, small);
  EXPECT_EQ(refused.status().code(), StatusCode::kOverBudget);
  EXPECT_NE(refused.status().message().find("host_budget"), std::string::npos) << refused.status().message();
  EXPECT_EQ(PageCompressor::create({10, kPage, 1}, budget).status().code(), StatusCode::kInvalid);
}

TEST(PageCompressor, AFrameOfAnotherSizeIsRefused) {
  Budget budget(uint64_t{64} << 20);
  const auto compressor = open(budget);
  std::vector<uint8_t> stored(kPage);
  const uint32_t size = compressor->compress(0, bf16_page(4), stored);
  ASSERT_GT(size, 0U);
  const std::span<const uint8_t> frame = std::span(stored).first(size);
  std::vector<uint8_t> out(2 * kPage, 0xee);
  EXPECT_FALSE(compressor->expand(frame, std::span(out).first(kPage - 64)));
  EXPECT_FALSE(compressor->expand(frame, out));
  EXPECT_FALSE(compressor->expand({}, std::span(out).first(kPage)));
  EXPECT_FALSE(compressor->expand(std::span(stored).first(size / 2), std::span(out).first(kPage)));
  EXPECT_TRUE(compressor->expand(frame, std::span(out).first(kPage)));
  EXPECT_EQ(out[kPage], 0xee);
}

}  // namespace
}  // namespace quire
