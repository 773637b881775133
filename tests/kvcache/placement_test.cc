// Where pages in host memory are attended: what a brute-force search over the header's formula says is best.
#include "kvcache/placement.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace quire {
namespace {

constexpr double kPage = 70000;
constexpr uint32_t kRoom = 512;

// A PCIe 5 link, 16 cores, an H100.
constexpr AttendSpeeds kSpeeds{50e9, 600e9, 10e12};

WaveWork wave_of(uint32_t pages, uint64_t rows) {
  WaveWork wave;
  wave.pages = pages;
  wave.page_bytes = kPage;
  wave.page_work = attend_work(kPage, rows);
  return wave;
}

double end_of(const WaveWork& wave, const AttendSpeeds& speeds, uint32_t x) {
  const double carried =
      x == 0 ? 0 : kCarrySeconds + x * (wave.page_bytes / speeds.link + wave.page_work / speeds.device);
  return std::max(wave.device_work / speeds.device + carried,
                  (wave.pages - x) * wave.page_work / speeds.host);
}

TEST(Placement, EdgesHaveOnePlace) {
  const WaveWork prefill = wave_of(100, 4096);
  EXPECT_EQ(pages_to_carry(wave_of(0, 4096), kSpeeds, kRoom), 0U) << "no pages";
  EXPECT_EQ(pages_to_carry(prefill, kSpeeds, 0), 0U) << "no room";
  EXPECT_EQ(pages_to_carry(prefill, {0, 600e9, 10e12}, kRoom), 0U) << "no link";
  EXPECT_EQ(pages_to_carry(prefill, {1, 600e9, 10e12}, kRoom), 0U) << "a byte a second";
  EXPECT_EQ(pages_to_carry(prefill, {50e9, 0, 10e12}, kRoom), 100U) << "no CPU";
  EXPECT_EQ(pages_to_carry(prefill, {50e9, 1, 0}, kRoom), 100U) << "a device of unknown speed";
  EXPECT_EQ(pages_to_carry(prefill, kSpeeds, 7), 7U) << "little room";
}

TEST(Placement, AChunkIsCarriedAndOneTokenStays) {
  EXPECT_GE(pages_to_carry(wave_of(512, 8192), kSpeeds, kRoom), 450U);
  // Over a slow link a token's pages stay, and a chunk's go up all the same.
  constexpr AttendSpeeds kSlow{2e9, 600e9, 10e12};
  EXPECT_LE(pages_to_carry(wave_of(512, 4), kSlow, kRoom), 10U);
  EXPECT_GE(pages_to_carry(wave_of(512, 8192), kSlow, kRoom), 450U);
  // One page: it takes longer to launch a copy than to attend it.
  EXPECT_EQ(pages_to_carry(wave_of(1, 4), kSpeeds, kRoom), 0U);
  EXPECT_EQ(pages_to_carry(wave_of(1, 8192), kSpeeds, kRoom), 1U);
}

TEST(Placement, ADeviceWithWorkOfItsOwnIsGivenLess) {
  WaveWork wave = wave_of(256, 4);
  const uint32_t idle = pages_to_carry(wave, kSpeeds, kRoom);
  wave.device_work = 5000 * wave.page_work;
  const uint32_t busy = pages_to_carry(wave, kSpeeds, kRoom);
  EXPECT_GT(idle, busy);
}

TEST(Placement, NoOtherSplitEndsEarlier) {
  uint32_t splits = 0;
  for (const double link : {1e8, 12e9, 50e9, 4e11}) {
    for (const uint64_t rows : {1U, 4U, 64U, 2048U}) {
      for (const double anyway : {0.0, 300.0}) {
        for (const uint32_t pages : {1U, 2U, 37U, 512U}) {
          WaveWork wave = wave_of(pages, rows);
          wave.device_work = anyway * wave.page_work;
          const AttendSpeeds speeds{link, 600e9, 10e12};
          const uint32_t x = pages_to_carry(wave, speeds, kRoom);
          ASSERT_LE(x, pages);
          double best = end_of(wave, speeds, 0);
          for (uint32_t other = 1; other <= pages; ++other)
            best = std::min(best, end_of(wave, speeds, other));
          EXPECT_LE(end_of(wave, speeds, x), best * (1 + 1e-9))
              << link << " " << rows << " " << pages << " " << x;
          if (x > 0 && x < pages) ++splits;
        }
      }
    }
  }
  EXPECT_GT(splits, 10U);
}

TEST(Placement, SpeedsAreWhatWasSeenLately) {
  SpeedMeter meter(0, 100);
  EXPECT_EQ(meter.speed(), 100);
  meter.add(50, 0);
  meter.add(0, 50);
  EXPECT_EQ(meter.speed(), 100) << "no work and no time say nothing";
  meter.add(1000, 2);
  EXPECT_NEAR(meter.speed(), 500, 1e-9) << "what was assumed is forgotten";
  for (int i = 0; i < 30; ++i) meter.add(3000, 3);
  EXPECT_NEAR(meter.speed(), 1000, 1);
  SpeedMeter set(7, 100);
  set.add(1000, 1);
  EXPECT_EQ(set.speed(), 7);
}

}  // namespace
}  // namespace quire
