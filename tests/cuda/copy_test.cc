// Pages copied by one launch: every byte, and none beside them.
#include "tests/cuda/support.h"

namespace quire::cuda::test {
namespace {

TEST(CudaCopy, MovesWholePagesAndNothingElse) {
  constexpr uint32_t kGap = 64;
  constexpr uint8_t kUntouched = 0xEE;
  for (const uint32_t bytes : {16U, 4096U, 33040U, 68800U}) {
    for (const uint32_t count : {1U, 70U}) {
      if (kSlice && count > 1 && bytes > 4096) continue;
      SCOPED_TRACE(std::to_string(count) + " pages of " + std::to_string(bytes) + " bytes");
      std::vector<uint8_t> from(size_t{count} * bytes);
      quire::test::Random random(bytes);
      for (uint8_t& byte : from) byte = static_cast<uint8_t>(random.bits());
      const DeviceArray<uint8_t> source(from);
      const DeviceArray<uint8_t> target(std::vector<uint8_t>(size_t{count} * (bytes + kGap), kUntouched));
      std::vector<PageCopy> copies(count);
      for (uint32_t i = 0; i < count; ++i) {
        copies[i] = {source.data() + size_t{count - 1 - i} * bytes,
                     target.data() + size_t{i} * (bytes + kGap)};
      }
      const DeviceArray<PageCopy> device_copies(copies);
      expect_ran(copy_pages({device_copies.data(), count, bytes}, nullptr));
      const std::vector<uint8_t> got = target.host();
      for (uint32_t i = 0; i < count; ++i) {
        const uint8_t* page = got.data() + size_t{i} * (bytes + kGap);
        ASSERT_TRUE(std::equal(page, page + bytes, from.data() + size_t{count - 1 - i} * bytes))
            << "page " << i;
        ASSERT_TRUE(
            std::all_of(page + bytes, page + bytes + kGap, [](uint8_t byte) { return byte == kUntouched; }));
      }
    }
  }
}

}  // namespace
}  // namespace quire::cuda::test
