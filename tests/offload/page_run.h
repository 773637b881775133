// Runs of pages with known bytes, for tests of tiers.
#pragma once

#include <gtest/gtest.h>
#include <xxhash.h>

#include <numeric>
#include <vector>

#include "offload/read_plan.h"
#include "offload/tier.h"
#include "tests/offload/support.h"

namespace quire::testing {

// Pages that are or were put, and the buffer they were put from.
struct PageRun {
  PageRun(uint32_t first_index, std::vector<uint32_t> lengths, uint64_t seed)
      : buffer(run_align_up(std::accumulate(lengths.begin(), lengths.end(), uint64_t{0}))),
        places(lengths.size()) {
    fill_random(buffer.span(), seed);
    size_t at = 0;
    for (const uint32_t length : lengths) {
      const auto bytes = buffer.part(at, length);
      contents.emplace_back(bytes.begin(), bytes.end());
      pages.push_back({first_index++, length, XXH3_64bits(bytes.data(), bytes.size())});
      at += length;
    }
  }
  Status start_put(Tier& tier, uint64_t tag, StreamId stream) {
    return tier.put_run(tag, stream, pages, buffer.span(), places);
  }

  AlignedBytes buffer;
  std::vector<PutPage> pages;
  std::vector<Place> places;
  std::vector<std::vector<uint8_t>> contents;
};

inline Completion ok(uint64_t tag) { return {tag, CompletionEvent::kDone, StatusCode::kOk, 0}; }

inline void put_and_wait(Tier& tier, PageRun& run, StreamId stream, uint64_t tag = 1) {
  const Status status = run.start_put(tier, tag, stream);
  ASSERT_TRUE(status.ok()) << status.message();
  ASSERT_EQ(collect(tier, 1)[0], ok(tag));
}

// Reads places of one ReadRun, and returns the pages; empty when the read did not succeed.
inline std::vector<std::vector<uint8_t>> get_and_wait(Tier& tier, std::span<const Place> places,
                                                      uint64_t tag = 2) {
  const uint64_t begin = run_align_down(places.front().offset);
  AlignedBytes buffer(run_align_up(places.back().offset + places.back().length) - begin);
  const Status status = tier.get_run(tag, places, buffer.span());
  if (!status.ok() || collect(tier, 1)[0] != ok(tag)) return {};
  std::vector<std::vector<uint8_t>> pages;
  for (const Place& place : places) {
    const auto bytes = buffer.part(place.offset - begin, place.length);
    pages.emplace_back(bytes.begin(), bytes.end());
  }
  return pages;
}

}  // namespace quire::testing
