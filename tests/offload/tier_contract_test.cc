// What every tier promises, over all of them.
#include <algorithm>
#include <functional>
#include <map>
#include <thread>

#include "offload/nvme_tier.h"
#include "tests/offload/faulty_engine.h"
#include "tests/offload/page_run.h"

namespace quire::testing {
namespace {

constexpr uint64_t kMiB = 1 << 20;

struct TierKind {
  std::string name;
  std::function<Result<std::unique_ptr<NvmeTier>>(const std::string& directory, uint64_t budget)> open;
};

void PrintTo(const TierKind& kind, std::ostream* out) { *out << kind.name; }

TierKind nvme(std::string name, IoEngineKind engine, const IoEngineFactory& factory = {}) {
  return {std::move(name), [=](const std::string& directory, uint64_t budget) {
            NvmeTierOptions options;
            options.directory = directory;
            options.budget = budget;
            options.engine = engine;
            options.factory = factory;
            return NvmeTier::open(options, steady_clock());
          }};
}

std::vector<TierKind> tiers() {
  return {nvme("nvme_uring", IoEngineKind::kUring), nvme("nvme_threads", IoEngineKind::kThreads),
          nvme("nvme_faulty_without_faults", IoEngineKind::kAuto,
               faulty_engine_factory(std::make_shared<FaultPlan>()))};
}

class TierContract : public ::testing::TestWithParam<TierKind> {
 protected:
  void SetUp() override { open(64 * kMiB); }
  void open(uint64_t budget) {
    tier_.reset();
    auto tier = GetParam().open(directory_.path(), budget);
    ASSERT_TRUE(tier.ok()) << tier.status().message();
    tier_ = std::move(*tier);
  }

  ScratchDirectory directory_;
  std::unique_ptr<Tier> tier_;
};

TEST_P(TierContract, PagesOfAnyLengthComeBackAloneAndTogether) {
  PageRun run(0, {64, 640, 8640, 4096, 128, 70016}, 1);
  put_and_wait(*tier_, run, {1, 3});
  EXPECT_EQ(get_and_wait(*tier_, run.places), run.contents);
  for (size_t i = 0; i < run.places.size(); ++i) {
    const auto page = get_and_wait(*tier_, std::span(run.places).subspan(i, 1));
    ASSERT_EQ(page.size(), 1U);
    EXPECT_EQ(page[0], run.contents[i]) << i;
  }
  const auto some = get_and_wait(*tier_, std::span(run.places).subspan(2, 3));
  EXPECT_TRUE(std::ranges::equal(some, std::span(run.contents).subspan(2, 3)));
}

TEST_P(TierContract, ManyStreamsAtOnceKeepTheirPagesApart) {
  std::vector<std::unique_ptr<PageRun>> runs;
  for (uint64_t i = 0; i < 60; ++i) {
    runs.push_back(std::make_unique<PageRun>(10 * i, std::vector<uint32_t>(8, 8640), 100 + i));
    ASSERT_TRUE(runs.back()->start_put(*tier_, i, {i % 5, static_cast<uint32_t>(i % 3)}).ok());
  }
  std::map<uint64_t, int> ends;
  for (const Completion& completion : collect(*tier_, 60)) {
    EXPECT_EQ(completion, ok(completion.tag));
    ++ends[completion.tag];
  }
  EXPECT_EQ(ends.size(), 60U);
  for (const auto& run : runs) EXPECT_EQ(get_and_wait(*tier_, run->places), run->contents);
}

TEST_P(TierContract, ALongStreamReadsBackWithFewLargeReads) {
  std::vector<Place> places;
  std::vector<std::vector<uint8_t>> contents;
  // Runs as large as the tier likes them.
  while (contents.size() < 1500) {
    const auto room = tier_->put_room({1, 0}, 8640);
    const uint64_t count = std::min<uint64_t>(room.pages, room.bytes / 8640);
    ASSERT_GT(count, 0U);
    PageRun run(static_cast<uint32_t>(contents.size()), std::vector<uint32_t>(count, 8640), contents.size());
    put_and_wait(*tier_, run, {1, 0});
    places.insert(places.end(), run.places.begin(), run.places.end());
    contents.insert(contents.end(), run.contents.begin(), run.contents.end());
  }
  const auto reads = plan_runs(places, kMiB);
  const uint64_t bytes = contents.size() * 8640;
  EXPECT_LE(reads.size(), bytes / kMiB + 12);
  for (const ReadRun& read : reads) {
    const auto pages = get_and_wait(*tier_, std::span(places).subspan(read.first, read.count));
    ASSERT_TRUE(std::ranges::equal(pages, std::span(contents).subspan(read.first, read.count)));
  }
  EXPECT_LE(tier_->stats().written_bytes, bytes * 102 / 100);
}

TEST_P(TierContract, DroppedPagesAreAMissOnceTheirSpaceIsFree) {
  PageRun run(0, {640, 640}, 1);
  put_and_wait(*tier_, run, {1, 0});
  EXPECT_EQ(tier_->stats().live_bytes, 1280U);
  tier_->drop(run.places);
  EXPECT_EQ(tier_->stats().live_bytes, 0U);
  EXPECT_EQ(tier_->stats().used_bytes, 0U);
  AlignedBytes buffer(4096);
  EXPECT_EQ(tier_->get_run(1, run.places, buffer.span()).code(), StatusCode::kMiss);
  PageRun other(0, {640, 640}, 2);
  put_and_wait(*tier_, other, {2, 0});
  EXPECT_EQ(tier_->get_run(1, run.places, buffer.span()).code(), StatusCode::kMiss);
  EXPECT_EQ(get_and_wait(*tier_, other.places), other.contents);
}

// Parts of pages are read like pages, and what is wrong with one run of a batch is no other's fault.
TEST_P(TierContract, ABatchStartsWhatCanBeRead) {
  PageRun run(0, {16384, 16384}, 1);
  put_and_wait(*tier_, run, {1, 0});
  PageRun gone(2, {640}, 2);
  put_and_wait(*tier_, gone, {2, 0});
  tier_->drop(gone.places);
  Place part = run.places[1];
  part.offset += 5120;
  part.length = 1088;
  std::vector<AlignedBytes> buffers;
  for (int i = 0; i < 4; ++i) buffers.emplace_back(32768);
  std::array<GetRun, 4> runs{{{7, run.places, buffers[0].span(), {}},
                              {8, gone.places, buffers[1].span(), {}},
                              {9, {&part, 1}, buffers[2].span(), {}},
                              {10, {}, buffers[3].span(), {}}}};
  tier_->get_runs(runs);
  EXPECT_TRUE(runs[0].status.ok());
  EXPECT_EQ(runs[1].status.code(), StatusCode::kMiss);
  EXPECT_TRUE(runs[2].status.ok());
  EXPECT_EQ(runs[3].status.code(), StatusCode::kInvalid);
  std::vector<Completion> done = collect(*tier_, 2);
  std::ranges::sort(done, {}, &Completion::tag);
  EXPECT_EQ(done, (std::vector{ok(7), ok(9)}));
  const auto bytes = buffers[2].part(part.offset % kRunAlign, part.length);
  EXPECT_TRUE(std::ranges::equal(bytes, std::span(run.contents[1]).subspan(5120, part.length)));
  EXPECT_EQ(tier_->pending(), 0U);
}

TEST_P(TierContract, SpaceThatIsGivenToOthersDuringAReadMakesItAMiss) {
  PageRun run(0, {640}, 1);
  put_and_wait(*tier_, run, {1, 0});
  AlignedBytes buffer(4096);
  ASSERT_TRUE(tier_->get_run(7, run.places, buffer.span()).ok());
  tier_->drop(run.places);
  EXPECT_EQ(collect(*tier_, 1)[0], (Completion{7, CompletionEvent::kDone, StatusCode::kMiss, 0}));
}

TEST_P(TierContract, TheBudgetIsNeverExceededAndRoomComesBack) {
  open(2 * kMiB + 1000);
  std::vector<std::unique_ptr<PageRun>> runs;
  Status status;
  while (true) {
    runs.push_back(std::make_unique<PageRun>(runs.size(), std::vector<uint32_t>(4, 8640), runs.size()));
    status = runs.back()->start_put(*tier_, 1, {runs.size() % 3, 0});
    if (!status.ok()) break;
    ASSERT_EQ(collect(*tier_, 1)[0], ok(1));
    EXPECT_LE(tier_->stats().used_bytes, 2 * kMiB);
    ASSERT_LT(runs.size(), 100U);
  }
  EXPECT_EQ(status.code(), StatusCode::kOverBudget);
  EXPECT_NE(status.message().find("2097152"), std::string::npos) << status.message();
  EXPECT_GE(runs.size(), 30U);
  EXPECT_EQ(tier_->stats().used_bytes, 2 * kMiB);
  runs.pop_back();
  for (const auto& run : runs) EXPECT_EQ(get_and_wait(*tier_, run->places), run->contents);
  for (const auto& run : runs) tier_->drop(run->places);
  // What the tier itself still writes ends, too.
  std::array<Completion, 4> none;
  while (tier_->pending() > 0) EXPECT_EQ(*tier_->poll(none, 10ms), 0U);
  EXPECT_EQ(tier_->stats().used_bytes, 0U);
  PageRun again(0, {2 * kMiB - 4096}, 5);
  put_and_wait(*tier_, again, {9, 9});
}

TEST_P(TierContract, BadArgumentsAreRefusedAndChangeNothing) {
  PageRun run(0, {640, 640}, 1);
  AlignedBytes large(8192);
  const auto put = [&](std::span<const PutPage> pages, std::span<uint8_t> buffer, std::span<Place> places) {
    return tier_->put_run(1, {1, 0}, pages, buffer, places).code();
  };
  EXPECT_EQ(put({}, run.buffer.span(), {}), StatusCode::kInvalid);
  EXPECT_EQ(put(run.pages, run.buffer.span(), std::span(run.places).first(1)), StatusCode::kInvalid);
  EXPECT_EQ(put(run.pages, large.span(), run.places), StatusCode::kInvalid);
  EXPECT_EQ(put(run.pages, large.part(64, 4096), run.places), StatusCode::kInvalid);
  std::vector<PutPage> odd = run.pages;
  odd[0].length = 100;
  EXPECT_EQ(put(odd, run.buffer.span(), run.places), StatusCode::kInvalid);
  odd[0].length = 0;
  EXPECT_EQ(put(odd, run.buffer.span(), run.places), StatusCode::kInvalid);
  EXPECT_EQ(tier_->stats().used_bytes, 0U);

  put_and_wait(*tier_, run, {1, 0});
  EXPECT_EQ(tier_->get_run(1, {}, large.span()).code(), StatusCode::kInvalid);
  EXPECT_EQ(tier_->get_run(1, run.places, large.part(0, 1024)).code(), StatusCode::kInvalid);
  EXPECT_EQ(tier_->get_run(1, run.places, large.part(64, 4096)).code(), StatusCode::kInvalid);
  const std::array backwards{run.places[1], run.places[0]};
  EXPECT_EQ(tier_->get_run(1, backwards, large.span()).code(), StatusCode::kInvalid);
  EXPECT_EQ(tier_->pending(), 0U);
}

TEST_P(TierContract, CountsWhatItMovesAndHolds) {
  const uint64_t empty = tier_->table_bytes();
  PageRun run(0, {640, 8640}, 1);
  put_and_wait(*tier_, run, {1, 0});
  EXPECT_FALSE(get_and_wait(*tier_, std::span(run.places).first(1)).empty());
  const TierStats stats = tier_->stats();
  EXPECT_EQ(stats.capacity, 64 * kMiB);
  EXPECT_EQ(stats.written_bytes, 12288U);
  EXPECT_EQ(stats.read_bytes, 4096U);
  EXPECT_EQ(stats.live_bytes, 9280U);
  EXPECT_GE(stats.used_bytes, 12288U);
  EXPECT_EQ(stats.puts, 1U);
  EXPECT_EQ(stats.gets, 1U);
  EXPECT_EQ(stats.failed_puts + stats.failed_gets + stats.stray_completions, 0U);
  EXPECT_GT(stats.busy, 0ns);
  EXPECT_GT(tier_->table_bytes(), empty);
}

TEST_P(TierContract, WakeEndsThePollThatWaits) {
  std::array<Completion, 1> out;
  const auto begin = std::chrono::steady_clock::now();
  std::thread other([this] {
    std::this_thread::sleep_for(10ms);
    tier_->wake();
  });
  EXPECT_EQ(*tier_->poll(out, 20s), 0U);
  other.join();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 10s);
}

TEST_P(TierContract, OtherThreadsDropAndAskWhileOneMovesPages) {
  std::mutex mutex;
  std::vector<Place> droppable;
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop) {
      std::vector<Place> places;
      {
        const std::lock_guard lock(mutex);
        places.swap(droppable);
      }
      tier_->drop(places);
      EXPECT_LE(tier_->stats().used_bytes, 64 * kMiB);
      EXPECT_GT(tier_->put_room({1, 0}, 640).bytes, 0U);
      EXPECT_GT(tier_->table_bytes(), 0U);
      std::this_thread::sleep_for(100us);
    }
    tier_->drop(droppable);
  });
  for (uint64_t i = 0; i < 200; ++i) {
    PageRun run(i, std::vector<uint32_t>(4, 8640), i);
    put_and_wait(*tier_, run, {i % 3, 0});
    EXPECT_EQ(get_and_wait(*tier_, run.places), run.contents);
    const std::lock_guard lock(mutex);
    droppable.insert(droppable.end(), run.places.begin(), run.places.end());
  }
  stop = true;
  other.join();
  EXPECT_EQ(tier_->stats().live_bytes, 0U);
}

INSTANTIATE_TEST_SUITE_P(All, TierContract, ::testing::ValuesIn(tiers()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace quire::testing
