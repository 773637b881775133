// Bytes that are nearly a page header: parsing never reads outside them, and what it accepts is consistent.
#include <gtest/gtest.h>

#include <array>
#include <memory>

#include "quant/page.h"
#include "tests/fuzz/seeds.h"

namespace quire::testing {
namespace {

std::vector<uint8_t> valid_header(Random& random) {
  PageHeader header{};
  header.kind.key_codec = kCodecs[random.below(kCodecs.size())].id;
  header.kind.value_codec = kCodecs[random.below(kCodecs.size())].id;
  header.kind.key_space = random.chance(2) ? KeySpace::kPreRope : KeySpace::kPostRope;
  header.kind.sink_tokens = static_cast<uint8_t>(random.below(5));
  header.kind.kv_heads = static_cast<uint16_t>(1 + random.below(16));
  header.kind.shape = {32U << random.below(3), static_cast<uint32_t>(32 * (1 + random.below(8)))};
  header.token_count = static_cast<uint8_t>(header.kind.shape.tokens);
  header.rope_epoch = static_cast<uint32_t>(random.next());
  header.layer_params_hash = random.next();
  std::vector<SectionEntry> entries(header.kind.kv_heads);
  for (SectionEntry& entry : entries) {
    entry = {random.next(), static_cast<uint32_t>(random.next()), static_cast<uint32_t>(random.next())};
  }
  std::vector<uint8_t> bytes(page_layout(header.kind).header_bytes);
  write_page_header(header, entries, bytes);
  return bytes;
}

TEST(PageHeaderFuzz, DamagedHeadersAreRefusedOrEqual) {
  const uint64_t seeds = seed_count(20000);
  uint64_t accepted = 0;
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    Random random(seed);
    const std::vector<uint8_t> good = valid_header(random);
    const std::vector<uint8_t> bytes = damage(good, random);
    // A heap block of exactly this size: the address sanitizer sees a read beyond it.
    const auto exact = std::make_unique<uint8_t[]>(bytes.size());
    std::copy(bytes.begin(), bytes.end(), exact.get());
    PageHeader header{};
    std::array<SectionEntry, 16> entries{};
    const HeaderFault fault = read_page_header({exact.get(), bytes.size()}, &header, entries);
    if (fault != HeaderFault::kNone) continue;
    ++accepted;
    // The checksum covers every byte: only an undamaged header may pass.
    ASSERT_EQ(std::vector<uint8_t>(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(good.size())), good)
        << "seed " << seed;
  }
  EXPECT_LT(accepted, seeds / 4);  // some damage changes nothing
  report_counts(seeds, seeds);
}

}  // namespace
}  // namespace quire::testing
