// Compressed pages as a broken disk or a stranger would hand them back: expanding never reads outside them
// and never writes outside the page, and after damage the next page expands as ever.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "offload/page_compressor.h"
#include "tests/fuzz/seeds.h"

namespace quire::testing {
namespace {

// Every other byte of few values, by a step that the seed chooses.
std::vector<uint8_t> page_of(Random& random) {
  std::vector<uint8_t> page(64 * (1 + random.below(128)));
  const uint64_t values = 1 + random.below(40);
  const uint64_t step = 1 + random.below(4);
  for (size_t i = 0; i < page.size(); ++i) {
    page[i] = static_cast<uint8_t>(i % step == 0 ? random.below(values) : random.next());
  }
  return page;
}

TEST(PageCompressorFuzz, DamageIsRefusedOrStaysInsideThePage) {
  const uint64_t seeds = seed_count(20000);
  Budget budget(uint64_t{64} << 20);
  auto created = PageCompressor::create({1, 64 * 128, 1}, budget);
  ASSERT_TRUE(created.ok()) << created.status().message();
  PageCompressor& compressor = **created;
  uint64_t damaged = 0, accepted = 0;
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    Random random(seed);
    const std::vector<uint8_t> page = page_of(random);
    std::vector<uint8_t> stored(page.size());
    const uint32_t size = compressor.compress(0, page, stored);
    if (size == 0) continue;
    stored.resize(size);
    const std::vector<uint8_t> bytes = damage(stored, random);
    // Heap blocks of exactly these sizes: the address sanitizer sees what goes beyond them.
    const auto in = std::make_unique<uint8_t[]>(bytes.size());
    std::copy(bytes.begin(), bytes.end(), in.get());
    const size_t room = random.chance(4) ? 64 * (1 + random.below(128)) : page.size();
    const auto out = std::make_unique<uint8_t[]>(room);
    const bool ok = compressor.expand({in.get(), bytes.size()}, {out.get(), room});
    if (room != page.size() && bytes == stored) {
      ASSERT_FALSE(ok) << "seed " << seed;
    }
    ++damaged;
    accepted += ok ? 1 : 0;
    const auto back = std::make_unique<uint8_t[]>(page.size());
    ASSERT_TRUE(compressor.expand(stored, {back.get(), page.size()})) << "seed " << seed;
    ASSERT_EQ(std::memcmp(back.get(), page.data(), page.size()), 0) << "seed " << seed;
  }
  EXPECT_GT(damaged, seeds / 8);
  EXPECT_LT(accepted, damaged) << "flipped bits of a literal are for the page's checksums to find";
  report_counts(damaged, seeds);
}

TEST(PageCompressorFuzz, NoiseIsRefused) {
  const uint64_t seeds = seed_count(20000);
  Budget budget(uint64_t{64} << 20);
  auto created = PageCompressor::create({1, 4096, 1}, budget);
  ASSERT_TRUE(created.ok()) << created.status().message();
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    Random random(seed);
    const size_t size = random.below(512);
    const auto in = std::make_unique<uint8_t[]>(size);
    for (size_t i = 0; i < size; ++i) in[i] = static_cast<uint8_t>(random.next());
    constexpr uint8_t kFrameStart[] = {0x28, 0xb5, 0x2f, 0xfd};
    if (size >= 4) std::copy_n(kFrameStart, 4, in.get());
    const auto out = std::make_unique<uint8_t[]>(4096);
    ASSERT_FALSE((*created)->expand({in.get(), size}, {out.get(), 4096})) << "seed " << seed;
  }
  report_counts(seeds, seeds);
}

}  // namespace
}  // namespace quire::testing
