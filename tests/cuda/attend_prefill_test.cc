// Prefill against f64 over the decoded values: by the kernels that have tiles of rows, and without.
#include "tests/cuda/attend_world.h"

namespace quire::cuda::test {
namespace {

class CudaPrefill : public CudaTest {};

TEST_F(CudaPrefill, AgreesWithF64) {
  for (const uint32_t rows : {1U, 64U, 100U}) {
    for (const SectionShape shape : {SectionShape{64, 128}, SectionShape{32, 64}, SectionShape{32, 192}}) {
      if (kSlice && (rows != 64 || shape.dim != 64)) continue;
      SCOPED_TRACE(std::to_string(rows) + " rows, " + quire::test::shape_name(shape));
      World({.kind = kind_of(CodecId::kRot4, CodecId::kRot4, shape), .rows = rows, .path = Path::kPrefill})
          .expect_truth();
    }
  }
}

// Too little scratch for tiles: a kernel that needs none, and is more exact.
TEST_F(CudaPrefill, AgreesWithF64WithoutScratch) {
  const World world({.kind = kind_of(CodecId::kRot4, CodecId::kRot4, {64, 64}),
                     .sections = 2,
                     .scratch_sections = 0,
                     .rows = 20,
                     .path = Path::kPrefill});
  world.expect_truth();
}

// The kernels for prefill over rotated and trellis codecs, which have tiles of 128 rows.
class CudaTiles : public CudaTest {
 protected:
  template <typename Body>
  static void for_all_kernels(Body body) {
    body(Path::kTiles);
    if (!has_warpgroups()) return;
    SCOPED_TRACE("products of four warps");
    body(Path::kWarpgroups);
  }
};

// Runs, masks, sinks, rows beyond a tile.
TEST_F(CudaTiles, AgreeWithF64) {
  for_all_kernels([](Path path) {
    constexpr std::array kTileCodecs{CodecId::kRot4, CodecId::kRot3,  CodecId::kRot2,  CodecId::kTcq4,
                                     CodecId::kTcq3, CodecId::kTcq2,  CodecId::kTcq1,  CodecId::kInt4,
                                     CodecId::kInt3, CodecId::kInt2,  CodecId::kNuq4,  CodecId::kNuq3,
                                     CodecId::kNuq2, CodecId::kNuq4s, CodecId::kNuq3s, CodecId::kNuq2s};
    for (size_t i = 0; i < kTileCodecs.size(); ++i) {
      if (kSlice && i % 3 != 0) continue;
      const CodecId key = kTileCodecs[i];
      const CodecId value = kTileCodecs[(i + 3) % kTileCodecs.size()];
      SCOPED_TRACE(std::string(find_codec(key)->name) + "/" + std::string(find_codec(value)->name));
      World({.kind = kind_of(key, value, {64, i % 2 == 0 || kSlice ? 64U : 128U}, i % 2 == 0 ? 0 : 3),
             .sections = 3,
             .run_sections = 2,
             .rows = 20,
             .path = path})
          .expect_truth();
    }
    // Means of sections are multiplied eight at a time; rows beyond the first tile.
    World({.kind = kind_of(CodecId::kRot4, CodecId::kRot4, {64, 64}),
           .heads = 2,
           .sections = 11,
           .run_sections = 10,
           .rows = 3,
           .path = path})
        .expect_truth();
    World(
        {.kind = kind_of(CodecId::kTcq4, CodecId::kTcq4, {64, 64}), .sections = 1, .rows = 135, .path = path})
        .expect_truth();
  });
}

TEST_F(CudaTiles, MaskTokens) {
  for_all_kernels([](Path path) {
    std::vector<int32_t> first{0, 1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 191, 192, 193};
    for (int32_t i = 0; i < 20; ++i) first.push_back(9 * i);
    for (const uint32_t sinks : {0U, 3U}) {
      World({.kind = kind_of(CodecId::kTcq3, CodecId::kRot2, {64, 64}, sinks),
             .sections = 3,
             .rows = static_cast<uint32_t>(first.size()),
             .first = first,
             .path = path})
          .expect_truth();
    }
  });
}

// With scratch for a part of a run at a time a launch goes on from the partials of the one before: the same
// bits, whatever the part. Runs end in different launches.
TEST_F(CudaTiles, GiveTheSameBitsWhateverTheScratch) {
  for_all_kernels([](Path path) {
    std::vector<int32_t> first;
    for (int32_t i = 0; i < 35; ++i) first.push_back(i % 3 == 0 ? 40 * i : 0);
    Case call{.kind = kind_of(CodecId::kRot4, CodecId::kTcq4, {64, 64}, 3),
              .heads = 2,
              .sections = 22,
              .run_sections = 19,
              .rows = static_cast<uint32_t>(first.size()),
              .first = first,
              .path = path};
    const Output whole = World(call).run();
    for (const uint32_t sections : {1U, 16U}) {
      call.scratch_sections = sections;
      const World world(call);
      const Output output = world.run();
      EXPECT_EQ(output.out, whole.out);
      EXPECT_EQ(output.lse, whole.lse);
      if (sections == 1) world.expect_truth();
    }
  });
}

TEST_F(CudaTiles, GiveTheSameBitsUnderEverySchedule) {
  for_all_kernels([this](Path path) {
    const World world({.kind = kind_of(CodecId::kRot4, CodecId::kTcq2, {64, 64}, 4),
                       .sections = 4,
                       .rows = 17,
                       .path = path});
    const Output expected = world.run();
    for_all_schedules([&] { EXPECT_EQ(world.run().out, expected.out); });
  });
}

// Prefill takes the kernel that its device has: the bits say which one it was.
TEST_F(CudaTiles, AreChosenByTheDevice) {
  Case call{.kind = kind_of(CodecId::kRot4, CodecId::kRot4, {64, 64}), .sections = 3, .rows = 20};
  const auto run = [&](Path path) {
    call.path = path;
    return World(call).run().out;
  };
  const std::vector<float> tiles = run(Path::kTiles);
#if !defined(QUIRE_CUDA_DEVICE)
  EXPECT_EQ(run(Path::kPrefill), tiles);
#endif
  if (!has_warpgroups()) {
    EXPECT_EQ(run(Path::kPrefill), tiles);
    return;
  }
  const std::vector<float> warpgroups = run(Path::kWarpgroups);
  EXPECT_NE(warpgroups, tiles);
  EXPECT_EQ(run(Path::kPrefill), warpgroups);
}

}  // namespace
}  // namespace quire::cuda::test
