// Sequences and pages of a whole engine: fork, truncate, replay, refill, free, and what is refused.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/engine_world.h"

namespace quire::testing {
namespace {

std::vector<float> last_row(const World& world, const Output& output, uint32_t layer) {
  const std::vector<float>& all = output.out[layer];
  return {all.end() - static_cast<ptrdiff_t>(world.query_row()), all.end()};
}

class Store : public ::testing::Test {
 protected:
  void open() {
    engine_ = open_engine(world_);
    ASSERT_NE(engine_, nullptr);
    sequence_ = *engine_->cache().create_sequence();
    ASSERT_TRUE(engine_->cache().set_rope(sequence_, test_rope(world_)).ok());
  }
  Output run(Sequence* sequence, uint64_t first, uint64_t count, uint64_t chunk = 64) {
    Output output = run_chunks(*engine_, world_, sequence, first, count, chunk);
    EXPECT_TRUE(output.status.ok()) << output.status.message();
    return output;
  }
  ResidencyCounts pages() {
    ResidencyLock lock = engine_->residency().lock();
    return engine_->residency().counts(lock);
  }

  World world_;
  std::unique_ptr<Engine> engine_;
  Sequence* sequence_ = nullptr;
};

TEST_F(Store, ForkSharesPagesAndCopiesTheTail) {
  open();
  run(sequence_, 0, 150);
  const uint64_t before = pages().page_bytes;
  Sequence* fork = *engine_->cache().fork(sequence_);
  EXPECT_EQ(pages().page_bytes, before);
  EXPECT_EQ(engine_->cache().length(fork), 150U);
  const Output a = run(sequence_, 150, 100);
  const Output b = run(fork, 150, 100);
  EXPECT_EQ(a.out, b.out);
  // Freeing the original leaves the fork whole.
  ASSERT_TRUE(engine_->cache().free(sequence_).ok());
  const Output c = run(fork, 250, 10);
  EXPECT_LT(relative_error(last_row(world_, c, 0).data(), attend_reference(world_, 0, 259)), 0.2);
}

TEST_F(Store, ForksDiverge) {
  open();
  run(sequence_, 0, 150);
  Sequence* fork = *engine_->cache().fork(sequence_);
  World other = world_;
  other.seed = 9;
  ASSERT_TRUE(run_chunks(*engine_, other, fork, 150, 60, 60).status.ok());
  const Output output = run(sequence_, 150, 60);
  EXPECT_LT(relative_error(last_row(world_, output, 1).data(), attend_reference(world_, 1, 209)), 0.2);
}

TEST_F(Store, TruncateInsideTheTailLosesNothing) {
  open();
  run(sequence_, 0, 150);
  ASSERT_TRUE(engine_->cache().truncate(sequence_, 140).ok());
  EXPECT_EQ(engine_->cache().length(sequence_), 140U);
  const Output again = run(sequence_, 140, 60);
  const auto fresh = open_engine(world_);
  Sequence* sequence = *fresh->cache().create_sequence();
  const Output expected = run_chunks(*fresh, world_, sequence, 0, 200, 64);
  EXPECT_EQ(last_row(world_, again, 0), last_row(world_, expected, 0));
}

TEST_F(Store, TruncateAtAPageEdgeLosesNothing) {
  open();
  run(sequence_, 0, 150);
  ASSERT_TRUE(engine_->cache().truncate(sequence_, 64).ok());
  const Output again = run(sequence_, 64, 136);
  const auto fresh = open_engine(world_);
  Sequence* sequence = *fresh->cache().create_sequence();
  const Output expected = run_chunks(*fresh, world_, sequence, 0, 200, 64);
  EXPECT_EQ(last_row(world_, again, 0), last_row(world_, expected, 0));
}

TEST_F(Store, TruncateIntoASealedPageCostsTheCodecsError) {
  for (const CodecId codec : {CodecId::kF32, CodecId::kRot4}) {
    world_.key_codec = world_.value_codec = codec;
    open();
    run(sequence_, 0, 150);
    ASSERT_TRUE(engine_->cache().truncate(sequence_, 80).ok());
    const Output again = run(sequence_, 80, 1);
    const double error = relative_error(last_row(world_, again, 0).data(), attend_reference(world_, 0, 80));
    EXPECT_LT(error, codec == CodecId::kF32 ? 3e-6 : 0.2);
    ASSERT_TRUE(engine_->cache().truncate(sequence_, 2).ok());  // into the sinks
    EXPECT_LT(
        relative_error(last_row(world_, run(sequence_, 2, 1), 1).data(), attend_reference(world_, 1, 2)),
        0.02);
  }
}

TEST_F(Store, TruncateKeepsWhatRecentPagesSee) {
  world_.recent_pages = 2;
  world_.key_codec = world_.value_codec = CodecId::kF32;
  open();
  run(sequence_, 0, 300);
  ASSERT_TRUE(engine_->cache().truncate(sequence_, 200).ok());
  const Output again = run(sequence_, 200, 50);
  EXPECT_LT(relative_error(last_row(world_, again, 1).data(), attend_reference(world_, 1, 249)), 3e-6);
}

TEST_F(Store, FreedSequencesGiveTheirMemoryBack) {
  open();
  const uint64_t idle = engine_->host_budget().used();
  const uint64_t tables = engine_->host_budget().used(Use::kTables);
  run(sequence_, 0, 500);
  Sequence* fork = *engine_->cache().fork(sequence_);
  EXPECT_GT(engine_->host_budget().used(), idle);
  ASSERT_TRUE(engine_->cache().free(sequence_).ok());
  ASSERT_TRUE(engine_->cache().free(fork).ok());
  // Blocks of page records stay for the next pages; everything else goes back.
  const uint64_t kept = engine_->host_budget().used(Use::kTables) - tables;
  EXPECT_EQ(engine_->host_budget().used(), idle + kept);
  EXPECT_LE(kept, uint64_t{64} << 10);
  EXPECT_EQ(pages().pages, 0U);
}

TEST_F(Store, NotFiniteInputIsRefusedAndNothingIsStored) {
  open();
  run(sequence_, 0, 40);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const bool in_keys : {true, false}) {
      const StepRequest request{sequence_, 40, 30};
      auto step = engine_->cache().begin({&request, 1});
      ASSERT_TRUE(step.ok());
      std::vector<float> keys = rows(world_, Row::kKey, 0, 40, 30);
      std::vector<float> values = rows(world_, Row::kValue, 0, 40, 30);
      (in_keys ? keys : values)[1234] = bad;
      ASSERT_TRUE(engine_->cache()
                      .append(step->get(), 0, view(keys, world_.head_dim, world_.kv_heads),
                              view(values, world_.head_dim, world_.kv_heads))
                      .ok());
      const Status status = engine_->cache().wait(step->get());
      EXPECT_EQ(status.code(), StatusCode::kNotFinite);
      EXPECT_NE(status.message().find("layer 0"), std::string::npos);
      EXPECT_TRUE(engine_->cache().end(step->get()).ok());
      EXPECT_EQ(engine_->cache().length(sequence_), 40U);
    }
  }
  const Output output = run(sequence_, 40, 60);
  EXPECT_LT(relative_error(last_row(world_, output, 1).data(), attend_reference(world_, 1, 99)), 0.2);
}

// f32 knows numbers above the largest bf16; int codecs saturate there, as bf16 does, and nuq codecs at 2^124.
TEST_F(Store, HugeInputsDecodeToFiniteValues) {
  const float most = std::numeric_limits<float>::max();
  const float largest_bf16 = 0x1.fep127F;
  for (const CodecId codec : {CodecId::kInt8, CodecId::kInt4, CodecId::kInt3, CodecId::kInt2, CodecId::kBf16,
                              CodecId::kNuq4, CodecId::kNuq2, CodecId::kNuq3s}) {
    const bool saturates_at_bf16 = find_codec(codec)->family != CodecFamily::kNonUniform;
    world_.key_codec = world_.value_codec = codec;
    world_.layers = 1;
    open();
    const uint32_t width = world_.kv_row();
    std::vector<float> huge = rows(world_, Row::kKey, 0, 0, 64);
    for (size_t i = 0; i < huge.size(); i += 3) huge[i] = i % 2 == 0 ? most : -most;
    const StepRequest request{sequence_, 0, 64};
    auto step = engine_->cache().begin({&request, 1});
    ASSERT_TRUE(step.ok());
    const TensorView kv = view(huge, world_.head_dim, world_.kv_heads);
    ASSERT_TRUE(engine_->cache().append(step->get(), 0, kv, kv).ok());
    ASSERT_TRUE(engine_->cache().end(step->get()).ok());

    const Page& page = *sequence_->layers[0].table->pages[1];  // page 0 has sinks
    const LayerConfig& layer = engine_->config().layer[0];
    const SectionLayout& at = layer.layout.section;
    std::vector<float> keys(size_t{world_.page_tokens} * world_.head_dim);
    std::vector<float> values(keys.size());
    for (uint32_t head = 0; head < world_.kv_heads; ++head) {
      const uint8_t* section = page.memory() + layer.layout.header_bytes + head * at.bytes;
      const SectionEntry& entry = page.entries[head];
      const SectionShape shape = engine_->config().shape();
      best_kernels().decode_key(
          codec, shape, {section + at.key_codes, section + at.key_meta, entry.key_param}, keys.data());
      best_kernels().decode_value(codec, shape,
                                  {section + at.value_codes, section + at.value_meta, entry.value_param},
                                  values.data());
      for (size_t i = 0; i < keys.size(); ++i) {
        const size_t token = world_.page_tokens + i / world_.head_dim;
        const float x = huge[token * width + head * world_.head_dim + i % world_.head_dim];
        ASSERT_TRUE(std::isfinite(keys[i]) && std::isfinite(values[i])) << find_codec(codec)->name;
        if (std::abs(x) != most || !saturates_at_bf16) continue;
        ASSERT_NEAR(keys[i], std::copysign(largest_bf16, x), 2e-3F * largest_bf16) << find_codec(codec)->name;
        ASSERT_NEAR(values[i], std::copysign(largest_bf16, x), 2e-3F * largest_bf16)
            << find_codec(codec)->name;
      }
    }
  }
}

TEST_F(Store, AStepThatSkipsALayerForgetsItsTokens) {
  open();
  run(sequence_, 0, 40);
  const StepRequest request{sequence_, 40, 70};
  auto step = engine_->cache().begin({&request, 1});
  ASSERT_TRUE(step.ok());
  const std::vector<float> keys = rows(world_, Row::kKey, 0, 40, 70);
  ASSERT_TRUE(engine_->cache()
                  .append(step->get(), 0, view(keys, world_.head_dim, world_.kv_heads),
                          view(keys, world_.head_dim, world_.kv_heads))
                  .ok());
  ASSERT_TRUE(engine_->cache().wait(step->get()).ok());
  const Status status = engine_->cache().end(step->get());
  EXPECT_EQ(status.code(), StatusCode::kInvalid);
  EXPECT_NE(status.message().find("layer 1"), std::string::npos);
  EXPECT_EQ(engine_->cache().length(sequence_), 40U);
  // The step had sealed the page that holds the tail: the tail comes back as it was, not as the page decodes.
  const Output output = run(sequence_, 40, 60);
  const auto fresh = open_engine(world_);
  const Output expected = run_chunks(*fresh, world_, *fresh->cache().create_sequence(), 0, 100, 50);
  for (uint32_t layer = 0; layer < world_.layers; ++layer) {
    EXPECT_EQ(last_row(world_, output, layer), last_row(world_, expected, layer));
  }
}

TEST_F(Store, RefusesWhatMakesNoSense) {
  open();
  run(sequence_, 0, 40);
  Cache& cache = engine_->cache();
  const auto refused = [&](StepRequest request) { return !cache.begin({&request, 1}).ok(); };
  EXPECT_TRUE(refused({sequence_, 39, 2}));
  EXPECT_TRUE(refused({sequence_, 41, 1}));
  EXPECT_TRUE(refused({sequence_, 40, 0}));
  EXPECT_TRUE(refused({sequence_, 40, UINT64_MAX}));
  EXPECT_TRUE(refused({sequence_, 40, world_.max_step_tokens + 1}));
  EXPECT_FALSE(cache.begin({}).ok());
  EXPECT_EQ(cache.truncate(sequence_, 41).code(), StatusCode::kInvalid);
  const StepRequest request{sequence_, 40, 1};
  auto step = cache.begin({&request, 1});
  ASSERT_TRUE(step.ok());
  EXPECT_TRUE(refused(request));
  EXPECT_EQ(cache.truncate(sequence_, 10).code(), StatusCode::kInvalid);
  EXPECT_EQ(cache.free(sequence_).code(), StatusCode::kInvalid);
  EXPECT_FALSE(cache.fork(sequence_).ok());
  const std::vector<float> q(world_.query_row());
  std::vector<float> out(world_.query_row());
  const TensorView view_q = view(q, world_.head_dim, world_.query_heads);
  const AttendArgs args{1, view_q,  {out.data(), DType::kF32, view_q.token_stride, view_q.head_stride},
                        0, nullptr, nullptr};
  EXPECT_EQ(cache.attend(step->get(), 7, args).code(), StatusCode::kInvalid);
  ASSERT_TRUE(cache.attend(step->get(), 0, args).ok());  // before its append: found when it runs
  EXPECT_EQ(cache.wait(step->get()).code(), StatusCode::kInvalid);
  EXPECT_FALSE(cache.end(step->get()).ok());
}

TEST_F(Store, PreRopeNeedsARope) {
  world_.key_space = KeySpace::kPreRope;
  engine_ = open_engine(world_);
  Sequence* sequence = *engine_->cache().create_sequence();
  const StepRequest request{sequence, 0, 1};
  EXPECT_EQ(engine_->cache().begin({&request, 1}).status().code(), StatusCode::kInvalid);
}

TEST_F(Store, PagesOfAnotherRopeEpochAreAMissAndForksKeepTheirs) {
  open();
  run(sequence_, 0, 100);
  Sequence* fork = *engine_->cache().fork(sequence_);
  Rope rope = test_rope(world_);
  rope.epoch = 2;
  ASSERT_TRUE(engine_->cache().set_rope(sequence_, rope).ok());
  const uint64_t before = count_refills();
  run(sequence_, 100, 20);
  EXPECT_GT(count_refills(), before);
  const uint64_t after = count_refills();
  run(fork, 100, 20);
  EXPECT_EQ(count_refills(), after);
}

// Their keys are turned when they are read.
TEST_F(Store, PreRopePagesOutliveTheirRope) {
  world_.key_space = KeySpace::kPreRope;
  open();
  run(sequence_, 0, 100);
  Rope rope = test_rope(world_);
  rope.epoch = 2;
  ASSERT_TRUE(engine_->cache().set_rope(sequence_, rope).ok());
  const uint64_t before = count_refills();
  run(sequence_, 100, 20);
  EXPECT_EQ(count_refills(), before);
}

TEST_F(Store, OverBudgetWithoutADiskNamesTheWayOut) {
  world_.key_codec = world_.value_codec = CodecId::kBf16;
  world_.max_step_tokens = 64;
  world_.host_budget = uint64_t{2} << 20;
  open();
  const Output output = run_chunks(*engine_, world_, sequence_, 0, 5000, 64);
  EXPECT_EQ(output.status.code(), StatusCode::kOverBudget);
  EXPECT_NE(output.status.message().find("nvme_budget"), std::string::npos) << output.status.message();
  EXPECT_LE(engine_->host_budget().peak(), world_.host_budget);
  // What was there before the failed step is still there.
  const uint64_t length = engine_->cache().length(sequence_);
  EXPECT_GT(length, 100U);
  ASSERT_TRUE(engine_->cache().truncate(sequence_, length / 64 * 64 - 64).ok());
  EXPECT_TRUE(run_chunks(*engine_, world_, sequence_, length / 64 * 64 - 64, 5, 5).status.ok());
}

TEST_F(Store, TooSmallABudgetIsRefusedAtOpen) {
  world_.host_budget = 100000;
  const auto engine = Engine::open(engine_options(world_));
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.status().message().find("host_budget"), std::string::npos);
}

TEST_F(Store, EventFdIsReadableWhenNothingIsLeftToDo) {
  open();
  const StepRequest request{sequence_, 0, 10};
  auto step = engine_->cache().begin({&request, 1});
  ASSERT_TRUE(step.ok());
  EXPECT_TRUE(engine_->cache().poll(step->get()).ok());
  EXPECT_TRUE(engine_->cache().event_fd(step->get()).ok());
  EXPECT_FALSE(engine_->cache().end(step->get()).ok());
}

// The refilled page must give the very bits of the first time.
TEST_F(Store, ReplayGivesQueriesTheirOwnPagesAndRestoresLostOnes) {
  world_.nvme_budget = uint64_t{16} << 20;
  open();
  const Output first = run(sequence_, 0, 200, 50);
  // Lose page 2 of layer 0 by hand.
  {
    ResidencyLock lock = engine_->residency().lock();
    Page* page = sequence_->layers[0].table->pages[2];
    engine_->residency().drop_slot(lock, page, MemoryTier::kHost);
    ASSERT_TRUE(page->lost());
  }
  // Replay the recorded chunks that hold the page: tokens 50..99 (page 2 is 64..95).
  const StepRequest request{sequence_, 50, 50};
  auto step = engine_->cache().begin({&request, 1});
  ASSERT_TRUE(step.ok()) << step.status().message();
  const std::vector<float> keys = rows(world_, Row::kKey, 0, 50, 50);
  const std::vector<float> values = rows(world_, Row::kValue, 0, 50, 50);
  const std::vector<float> queries = rows(world_, Row::kQuery, 0, 50, 50);
  const TensorView q = view(queries, world_.head_dim, world_.query_heads);
  ASSERT_TRUE(engine_->cache()
                  .append(step->get(), 0, view(keys, world_.head_dim, world_.kv_heads),
                          view(values, world_.head_dim, world_.kv_heads))
                  .ok());
  std::vector<float> out(50 * world_.query_row(), -1.0F);
  std::vector<uint8_t> mask(50, 0);
  for (size_t i = 14; i < 50; ++i)
    mask[i] = 1;  // positions 64.. : their pages are whole from their first tokens
  AttendArgs args{1.0F / 8, q, {out.data(), DType::kF32, q.token_stride, q.head_stride}, 0, nullptr, nullptr};
  ASSERT_TRUE(engine_->cache().attend(step->get(), 0, args).ok());
  EXPECT_EQ(engine_->cache().wait(step->get()).code(), StatusCode::kInvalid);  // rows 50..63 lack their page
  args.row_mask = mask.data();
  ASSERT_TRUE(engine_->cache().attend(step->get(), 0, args).ok());
  ASSERT_TRUE(engine_->cache().wait(step->get()).ok());
  ASSERT_TRUE(engine_->cache().end(step->get()).ok());
  for (size_t i = 0; i < out.size(); ++i) {
    const float expected =
        mask[i / world_.query_row()] == 0 ? 0.0F : first.out[0][50 * world_.query_row() + i];
    ASSERT_EQ(out[i], expected) << i;
  }
  EXPECT_EQ(engine_->cache().length(sequence_), 200U);
  const uint64_t before = count_refills();
  run(sequence_, 200, 1);
  EXPECT_EQ(count_refills(), before);
}

}  // namespace
}  // namespace quire::testing
