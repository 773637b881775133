// Attention of a whole engine against f64 attention over the very values that were appended, and the promise
// that its bits depend on positions alone.
#include <gtest/gtest.h>

#include <tuple>

#include "tests/support/engine_world.h"

namespace quire::testing {
namespace {

// The worst relative error of a codec's attention against unquantized f64 attention, over Gaussian values:
// the spread of softmax over hundreds of tokens averages values, so that errors weigh more than in use.
// Scales that keep a row's length (rot, tcq) have more squared error than least squares, where few bits miss
// much of a row.
double bound(CodecId codec) {
  switch (codec) {
    case CodecId::kF32:
      return 3e-6;
    case CodecId::kBf16:
      return 8e-3;
    case CodecId::kInt8:
      return 2e-2;
    case CodecId::kInt4:
    case CodecId::kRot4:
    case CodecId::kTcq4:
    case CodecId::kNuq4:
      return 0.25;
    case CodecId::kInt3:
    case CodecId::kRot3:
    case CodecId::kTcq3:
    case CodecId::kNuq3s:
      return 0.45;
    case CodecId::kRot2:
      return 1;
    case CodecId::kTcq1:
      return 3;
    default:
      return 0.75;
  }
}

struct Case {
  CodecId codec;
  KeySpace space;
};

class AttentionOfCodec : public ::testing::TestWithParam<std::tuple<CodecId, KeySpace>> {};

TEST_P(AttentionOfCodec, AgreesWithF64OverTheAppendedValues) {
  World world;
  std::tie(world.key_codec, world.key_space) = GetParam();
  world.value_codec = world.key_codec;
  world.balance = true;
  const auto engine = open_engine(world);
  Sequence* sequence = *engine->cache().create_sequence();
  ASSERT_TRUE(engine->cache().set_rope(sequence, test_rope(world)).ok());
  const uint64_t count = 700;
  const Output output = run_chunks(*engine, world, sequence, 0, count, 128);
  ASSERT_TRUE(output.status.ok()) << output.status.message();
  double worst = 0;
  for (uint32_t layer = 0; layer < world.layers; ++layer) {
    for (const uint64_t position : {0U, 1U, 31U, 32U, 33U, 127U, 128U, 511U, 512U, 600U, 699U}) {
      const float* row = output.out[layer].data() + position * world.query_row();
      worst = std::max(worst, relative_error(row, attend_reference(world, layer, position)));
    }
  }
  EXPECT_LT(worst, bound(world.key_codec));
  RecordProperty("worst", std::to_string(worst));
}

INSTANTIATE_TEST_SUITE_P(
    Codecs, AttentionOfCodec,
    ::testing::Combine(::testing::Values(CodecId::kF32, CodecId::kBf16, CodecId::kInt8, CodecId::kInt4,
                                         CodecId::kInt3, CodecId::kInt2, CodecId::kRot4, CodecId::kRot3,
                                         CodecId::kRot2, CodecId::kTcq4, CodecId::kTcq3, CodecId::kTcq2,
                                         CodecId::kTcq1, CodecId::kNuq4, CodecId::kNuq3s, CodecId::kNuq2),
                       ::testing::Values(KeySpace::kPostRope, KeySpace::kPreRope)),
    [](const auto& test) {
      return std::string(find_codec(std::get<0>(test.param))->name) +
             (std::get<1>(test.param) == KeySpace::kPreRope ? "PreRope" : "PostRope");
    });

TEST(Attention, IsTheSameForEveryGeometry) {
  for (const uint32_t page_tokens : {32U, 64U, 128U}) {
    for (const uint32_t head_dim : {32U, 96U, 128U, 256U}) {
      for (const uint32_t group : {1U, 3U, 5U, 16U}) {
        World world;
        world.layers = 1;
        world.key_codec = world.value_codec = CodecId::kBf16;
        world.page_tokens = page_tokens;
        world.head_dim = head_dim;
        world.query_heads = group * world.kv_heads;
        const auto engine = open_engine(world);
        Sequence* sequence = *engine->cache().create_sequence();
        const Output output = run_chunks(*engine, world, sequence, 0, 300, 300);
        ASSERT_TRUE(output.status.ok()) << output.status.message();
        const float* row = output.out[0].data() + size_t{299} * world.query_row();
        EXPECT_LT(relative_error(row, attend_reference(world, 0, 299)), 8e-3)
            << page_tokens << " tokens, head_dim " << head_dim << ", group " << group;
      }
    }
  }
}

TEST(Attention, SlidingWindowSeesOnlyTheWindow) {
  for (const uint64_t window : {1U, 5U, 32U, 33U, 100U, 10000U}) {
    World world;
    world.key_codec = world.value_codec = CodecId::kF32;
    const auto engine = open_engine(world);
    Sequence* sequence = *engine->cache().create_sequence();
    const Output output = run_chunks(*engine, world, sequence, 0, 300, 77, window);
    ASSERT_TRUE(output.status.ok()) << output.status.message();
    for (const uint64_t position : {0U, 4U, 31U, 63U, 64U, 130U, 299U}) {
      const float* row = output.out[1].data() + position * world.query_row();
      EXPECT_LT(relative_error(row, attend_reference(world, 1, position, window)), 3e-6)
          << "window " << window << " position " << position;
    }
  }
}

TEST(Attention, RecentPagesAreSeenUnfolded) {
  World world;
  world.key_codec = world.value_codec = CodecId::kRot2;
  double errors[2];
  for (const uint32_t recent : {0U, 100U}) {
    world.recent_pages = recent;
    const auto engine = open_engine(world);
    Sequence* sequence = *engine->cache().create_sequence();
    const Output output = run_chunks(*engine, world, sequence, 0, 400, 50);
    ASSERT_TRUE(output.status.ok()) << output.status.message();
    const float* row = output.out[1].data() + size_t{399} * world.query_row();
    errors[recent == 0 ? 0 : 1] = relative_error(row, attend_reference(world, 1, 399));
  }
  EXPECT_GT(errors[0], 0.05);
  EXPECT_LT(errors[1], 3e-6);
}

Output run_whole(const World& world, uint64_t count, uint64_t chunk, uint64_t window = 0) {
  const auto engine = open_engine(world);
  Sequence* sequence = *engine->cache().create_sequence();
  EXPECT_TRUE(engine->cache().set_rope(sequence, test_rope(world)).ok());
  Output output = run_chunks(*engine, world, sequence, 0, count, chunk, window);
  EXPECT_TRUE(output.status.ok()) << output.status.message();
  return output;
}

TEST(SameBits, ForEveryChunkingThreadCountAndWindow) {
  for (const KeySpace space : {KeySpace::kPostRope, KeySpace::kPreRope}) {
    for (const uint64_t window : {0U, 150U}) {
      World world;
      world.key_space = space;
      world.threads = 1;
      const Output expected = run_whole(world, 700, 512, window);
      for (const uint32_t threads : {1U, 2U, 3U}) {
        for (const uint64_t chunk : {1U, 37U, 500U}) {
          if (chunk == 1 && (threads != 2 || window != 0)) continue;
          world.threads = threads;
          const Output output = run_whole(world, 700, chunk, window);
          EXPECT_EQ(output.out, expected.out) << threads << " threads, chunks of " << chunk;
          EXPECT_EQ(output.lse, expected.lse) << threads << " threads, chunks of " << chunk;
        }
      }
    }
  }
}

TEST(SameBits, WhereverThePagesLie) {
  World world;
  world.key_codec = world.value_codec = CodecId::kBf16;
  const Output expected = run_whole(world, 3000, 256);
  world.nvme_budget = uint64_t{64} << 20;
  world.max_step_tokens = 256;
  for (const IoEngineKind kind : {IoEngineKind::kAuto, IoEngineKind::kThreads}) {
    for (const uint64_t device_budget : {uint64_t{0}, uint64_t{256} << 10}) {
      world.io_engine = kind;
      world.device_budget = device_budget;
      world.host_budget = (device_budget == 0 ? uint64_t{5120} : uint64_t{4608}) << 10;
      const auto engine = open_engine(world);
      ASSERT_NE(engine, nullptr);
      Sequence* sequence = *engine->cache().create_sequence();
      const Output output = run_chunks(*engine, world, sequence, 0, 3000, 256);
      ASSERT_TRUE(output.status.ok()) << output.status.message();
      EXPECT_EQ(output.out, expected.out);
      EXPECT_GT(engine->mover()->counts().dropped_pages.load(), 0U);
      EXPECT_GT(engine->mover()->tier_stats().read_bytes, 0U);
      EXPECT_LE(engine->host_budget().peak(), world.host_budget);
      if (device_budget != 0) {
        EXPECT_GT(engine->mover()->counts().copied_pages.load(), 0U);
      }
    }
  }
}

TEST(SameBits, OnALazyDevice) {
  World world;
  const Output expected = run_whole(world, 500, 100);
  world.lazy_device = true;
  EXPECT_EQ(run_whole(world, 500, 100).out, expected.out);
}

// What a call of attend_folded read first, and what it was told to prefetch.
struct FoldedCall {
  const uint8_t* first;
  const uint8_t* next;
};
std::vector<FoldedCall> folded_calls;  // of one thread

// The best kernels, with every attend_folded written down.
const Kernels& recording_kernels() {
  static const Kernels kernels = [] {
    Kernels recording = best_kernels();
    recording.attend_folded = [](const FoldedPages& pages, std::span<const SectionRef> sections,
                                 const QueryTile& tile, const AttendState& state, uint8_t* scratch) {
      folded_calls.push_back({sections[0].section, pages.next_call});
      best_kernels().attend_folded(pages, sections, tile, state, scratch);
    };
    return recording;
  }();
  return kernels;
}

// With one thread the guess is never wrong, whether its tiles take the runs in turn or runs are taken one by
// one.
TEST(Attention, PrefetchesWhatItReadsNext) {
  for (const uint32_t kv_heads : {1U, 2U}) {
    World world;
    world.layers = 1;
    world.kv_heads = kv_heads;
    world.threads = 1;
    world.kernels = &recording_kernels();
    const auto engine = open_engine(world);
    Sequence* sequence = *engine->cache().create_sequence();
    ASSERT_TRUE(run_chunks(*engine, world, sequence, 0, 1200, 300).status.ok());
    folded_calls.clear();
    ASSERT_TRUE(run_step(*engine, world, sequence, 1200, 1).status.ok());
    ASSERT_EQ(folded_calls.size(), kv_heads * 4U);  // three runs, and page 0 by itself for its sinks
    for (size_t i = 0; i + 1 < folded_calls.size(); ++i) {
      EXPECT_EQ(folded_calls[i].next, folded_calls[i + 1].first) << "call " << i;
    }
    EXPECT_EQ(folded_calls.back().next, nullptr);
  }
}

TEST(Attention, RaggedBatchesEqualSingleSequences) {
  World world;
  const auto engine = open_engine(world);
  Cache& cache = engine->cache();
  Sequence* a = *cache.create_sequence();
  Sequence* b = *cache.create_sequence();
  World other = world;
  other.seed = 2;
  ASSERT_TRUE(run_chunks(*engine, world, a, 0, 200, 100).status.ok());
  ASSERT_TRUE(run_chunks(*engine, other, b, 0, 75, 75).status.ok());

  // One step: 1 token of a and 40 tokens of b.
  const StepRequest requests[] = {{a, 200, 1}, {b, 75, 40}};
  auto step = cache.begin(requests);
  ASSERT_TRUE(step.ok()) << step.status().message();
  std::vector<std::vector<float>> outs(world.layers);
  for (uint32_t layer = 0; layer < world.layers; ++layer) {
    const auto joined = [&](Row row) {
      std::vector<float> all = rows(world, row, layer, 200, 1);
      const std::vector<float> more = rows(other, row, layer, 75, 40);
      all.insert(all.end(), more.begin(), more.end());
      return all;
    };
    const std::vector<float> keys = joined(Row::kKey);
    const std::vector<float> values = joined(Row::kValue);
    const std::vector<float> queries = joined(Row::kQuery);
    outs[layer].resize(41 * world.query_row());
    const TensorView q = view(queries, world.head_dim, world.query_heads);
    ASSERT_TRUE(cache
                    .append(step->get(), layer, view(keys, world.head_dim, world.kv_heads),
                            view(values, world.head_dim, world.kv_heads))
                    .ok());
    const AttendArgs args{0.125F, q,       {outs[layer].data(), DType::kF32, q.token_stride, q.head_stride},
                          0,      nullptr, nullptr};
    ASSERT_TRUE(cache.attend(step->get(), layer, args).ok());
    ASSERT_TRUE(cache.wait(step->get()).ok());
  }
  ASSERT_TRUE(cache.end(step->get()).ok());

  const Output alone_a = run_whole(world, 201, 201);
  const Output alone_b = run_whole(other, 115, 115);
  for (uint32_t layer = 0; layer < world.layers; ++layer) {
    const size_t row = world.query_row();
    const std::vector<float> expected_a(alone_a.out[layer].end() - static_cast<ptrdiff_t>(row),
                                        alone_a.out[layer].end());
    const std::vector<float> expected_b(alone_b.out[layer].begin() + static_cast<ptrdiff_t>(75 * row),
                                        alone_b.out[layer].end());
    EXPECT_EQ(std::vector<float>(outs[layer].begin(), outs[layer].begin() + static_cast<ptrdiff_t>(row)),
              expected_a);
    EXPECT_EQ(std::vector<float>(outs[layer].begin() + static_cast<ptrdiff_t>(row), outs[layer].end()),
              expected_b);
  }
}

}  // namespace
}  // namespace quire::testing
