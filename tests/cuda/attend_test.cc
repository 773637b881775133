// Attention of the kernels against f64 over the decoded values: codecs, shapes, rows, masks, sinks, runs.
#include "tests/cuda/attend_world.h"

namespace quire::cuda::test {
namespace {

bool bits_are_multiplied(CodecId id) {
  const CodecFamily family = find_codec(id)->family;
  return family != CodecFamily::kTrellis && family != CodecFamily::kNonUniform;
}

class CudaAttend : public CudaTest {};

TEST_F(CudaAttend, AgreesWithF64ForAllCodecs) {
  for (const CodecId codec : codecs_with_kernels()) {
    for (const SectionShape shape : {SectionShape{64, 128}, SectionShape{32, 64}}) {
      if (shape.dim == 128 && (kSlice || find_codec(codec)->family == CodecFamily::kNonUniform)) continue;
      SCOPED_TRACE(std::string(find_codec(codec)->name) + ", " + quire::test::shape_name(shape));
      World({.kind = kind_of(codec, codec, shape), .sections = 3}).expect_truth();
    }
  }
}

TEST_F(CudaAttend, AgreesWithF64ForMixedCodecs) {
  if (kSlice) GTEST_SKIP() << "sanitizers see each codec's code in the test above";
  const std::vector<CodecId> codecs = codecs_with_kernels();
  for (size_t k = 0; k < codecs.size(); ++k) {
    for (size_t v = 0; v < codecs.size(); ++v) {
      const CodecId key = codecs[k];
      const CodecId value = codecs[v];
      // Kernels over codes choose both as they run; elsewhere each codec is met on both sides.
      const bool both = bits_are_multiplied(key) && bits_are_multiplied(value);
      if (!both && v != (k + 5) % codecs.size()) continue;
      SCOPED_TRACE(std::string(find_codec(key)->name) + "/" + std::string(find_codec(value)->name));
      World({.kind = kind_of(key, value, {32, 64})}).expect_truth();
    }
  }
}

TEST_F(CudaAttend, AgreesWithF64AtAllShapes) {
  if (kSlice) GTEST_SKIP() << "sanitizers see other shapes in the other tests";
  for (const SectionShape shape : quire::test::all_shapes()) {
    for (const CodecId codec : {CodecId::kRot4, CodecId::kInt3}) {
      SCOPED_TRACE(std::string(find_codec(codec)->name) + ", " + quire::test::shape_name(shape));
      World({.kind = kind_of(codec, codec, shape), .rows = 3}).expect_truth();
    }
  }
}

// Unfolded in shared memory: what no other kernel knows.
TEST_F(CudaAttend, AgreesWithF64OverUnfoldedPages) {
  const std::vector<int32_t> first{0, 1, 3, 4, 31, 32, 33, 63, 64, 70};
  for (const SectionShape shape : quire::test::all_shapes()) {
    if (kSlice && (shape.dim != 64 || shape.tokens != 32)) continue;
    if (shape.tokens == 128 && shape.dim > 64) continue;
    SCOPED_TRACE(quire::test::shape_name(shape));
    World({.kind = kind_of(CodecId::kTcq2, CodecId::kNuq3s, shape, 4),
           .heads = 2,
           .sections = 3,
           .run_sections = 2,
           .rows = 10,
           .first = first,
           .path = shape.tokens == 32 ? Path::kPrefill : Path::kDecode})
        .expect_truth();
  }
}

TEST_F(CudaAttend, TurnsPreRopeKeysOfAllCodecs) {
  for (const CodecId key : codecs_with_kernels()) {
    SCOPED_TRACE(find_codec(key)->name);
    World({.kind = kind_of(key, CodecId::kInt8, {32, 64}),
           .heads = 2,
           .sections = 3,
           .rows = 3,
           .rotary_dim = 64})
        .expect_truth();
  }
  if (kSlice) return;
  for (const SectionShape shape : {SectionShape{64, 128}, SectionShape{32, 96}, SectionShape{64, 256}}) {
    for (const uint32_t rotary : {shape.dim, shape.dim / 2, shape.dim / 4 + 2}) {
      SCOPED_TRACE(quire::test::shape_name(shape) + ", rotary " + std::to_string(rotary));
      World({.kind = kind_of(CodecId::kTcq3, CodecId::kTcq2, shape, 4), .rows = 9, .rotary_dim = rotary})
          .expect_truth();
    }
  }
}

TEST_F(CudaAttend, UnfoldedPagesGiveTheSameBitsUnderEverySchedule) {
  const World world({.kind = kind_of(CodecId::kRot4, CodecId::kNuq2s, {32, 64}, 2),
                     .sections = 5,
                     .run_sections = 5,
                     .rows = 4,
                     .rotary_dim = 64});
  const Output expected = world.run();
  for_all_schedules([&] { EXPECT_EQ(world.run().out, expected.out); });
}

TEST_F(CudaAttend, AgreesWithF64ForAllGroups) {
  for (uint32_t rows = 1; rows <= 17; rows += kSlice ? 8 : 1) {
    for (const CodecId codec : {CodecId::kRot4, CodecId::kTcq4, CodecId::kInt8, CodecId::kBf16}) {
      SCOPED_TRACE(find_codec(codec)->name);
      World({.kind = kind_of(codec, codec, {64, 64}), .heads = 2, .rows = rows}).expect_truth();
    }
  }
}

TEST_F(CudaAttend, AgreesWithF64InRunsOfAnyLength) {
  for (const uint32_t run : {1U, 3U, 4U, 7U}) {
    if (kSlice && run != 3) continue;
    World({.kind = kind_of(CodecId::kRot3, CodecId::kRot2, {32, 64}), .sections = 11, .run_sections = run})
        .expect_truth();
  }
}

TEST_F(CudaAttend, MasksTokensPerRow) {
  const std::vector<int32_t> first{0, 1, 5, 31, 32, 33, 62, 63, 64, 70, 95, 96, 97};
  for (const Path path : {Path::kDecode, Path::kPrefill}) {
    World({.kind = kind_of(CodecId::kInt4, CodecId::kInt4, {32, 64}),
           .sections = 3,
           .rows = static_cast<uint32_t>(first.size()),
           .first = first,
           .path = path})
        .expect_truth();
  }
}

TEST_F(CudaAttend, SeesSinksUnfolded) {
  const std::vector<int32_t> first{0, 2, 3, 4, 5, 40};
  for (const CodecId codec : {CodecId::kRot4, CodecId::kTcq2, CodecId::kInt2}) {
    for (const uint32_t sinks : {1U, 4U, 32U}) {
      SCOPED_TRACE(sinks);
      World({.kind = kind_of(codec, codec, {64, 64}, sinks), .rows = 6}).expect_truth();
      World({.kind = kind_of(codec, codec, {64, 64}, sinks), .rows = 6, .first = first}).expect_truth();
    }
  }
}

TEST_F(CudaAttend, PrefillAgreesWithF64) {
  for (const uint32_t rows : {1U, 64U, 100U}) {
    for (const SectionShape shape : {SectionShape{64, 128}, SectionShape{32, 64}, SectionShape{32, 192}}) {
      if (kSlice && (rows != 64 || shape.dim != 64)) continue;
      SCOPED_TRACE(std::to_string(rows) + " rows, " + quire::test::shape_name(shape));
      World({.kind = kind_of(CodecId::kRot4, CodecId::kRot4, shape), .rows = rows, .path = Path::kPrefill})
          .expect_truth();
    }
  }
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

// Too little scratch for tiles: a kernel that needs none, and is more exact.
TEST_F(CudaAttend, PrefillWithoutScratchAgreesWithF64) {
  const World world({.kind = kind_of(CodecId::kRot4, CodecId::kRot4, {64, 64}),
                     .sections = 2,
                     .scratch_sections = 0,
                     .rows = 20,
                     .path = Path::kPrefill});
  world.expect_truth();
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

// Heads that have chosen sections of their own see as many as they have: also none of a run, and none at all.
// Sinks are the first section's, once.
TEST_F(CudaAttend, HeadsSeeSectionsOfTheirOwnChoice) {
  const bool warpgroups = has_warpgroups();
  struct Kernel {
    PageKind kind;
    uint32_t rows;
    Path path;
    uint32_t rotary_dim;
  };
  for (const Kernel& kernel :
       {Kernel{kind_of(CodecId::kRot4, CodecId::kRot4, {64, 64}, 3), 5, Path::kDecode, 0},  // staged
        Kernel{kind_of(CodecId::kRot4, CodecId::kInt8, {32, 64}, 3), 5, Path::kDecode, 0},  // over any codes
        Kernel{kind_of(CodecId::kRot4, CodecId::kInt8, {32, 64}, 3), 20, Path::kPrefill, 0},  //
        Kernel{kind_of(CodecId::kInt4, CodecId::kInt8, {32, 64}, 3), 5, Path::kDecode, 64},   // unfolded
        Kernel{kind_of(CodecId::kRot4, CodecId::kRot4, {64, 64}, 3), 40, Path::kTiles, 0},
        Kernel{kind_of(CodecId::kRot4, CodecId::kRot4, {64, 64}, 3), 40, Path::kWarpgroups, 0}}) {
    for (const uint32_t scratch : {1U, 64U}) {
      if (scratch == 1 && kernel.path == Path::kDecode) continue;
      if (kernel.path == Path::kWarpgroups && !warpgroups) continue;
      SCOPED_TRACE(std::to_string(kernel.rows) + " rows, scratch for " + std::to_string(scratch));
      World({.kind = kernel.kind,
             .heads = 4,
             .sections = 13,
             .run_sections = 9,
             .scratch_sections = scratch,
             .rows = kernel.rows,
             .path = kernel.path,
             .rotary_dim = kernel.rotary_dim,
             .head_sections = {13, 2, 9, 0}})
          .expect_truth();
    }
  }
}

std::vector<std::pair<CodecId, CodecId>> staged_pairs() {
  if (kSlice) {
    return {{CodecId::kRot4, CodecId::kRot4},
            {CodecId::kInt4, CodecId::kInt4},
            {CodecId::kNuq4, CodecId::kNuq4},
            {CodecId::kNuq3s, CodecId::kNuq3s}};
  }
  return {{CodecId::kRot4, CodecId::kRot4}, {CodecId::kRot3, CodecId::kRot3},
          {CodecId::kRot2, CodecId::kRot2}, {CodecId::kRot3, CodecId::kRot2},
          {CodecId::kInt8, CodecId::kInt8}, {CodecId::kInt4, CodecId::kInt4},
          {CodecId::kInt3, CodecId::kInt3}, {CodecId::kInt2, CodecId::kInt2},
          {CodecId::kNuq4, CodecId::kNuq4}, {CodecId::kNuq4s, CodecId::kNuq4s},
          {CodecId::kNuq3, CodecId::kNuq3}, {CodecId::kNuq3s, CodecId::kNuq3s},
          {CodecId::kNuq2, CodecId::kNuq2}, {CodecId::kNuq2s, CodecId::kNuq2s}};
}

// Decode takes the pair's own kernel, and prefill that has no scratch: the bits say that it was no other.
TEST_F(CudaAttend, PairsOfCodecsHaveKernelsOfTheirOwn) {
  for (const auto& [key, value] : staged_pairs()) {
    SCOPED_TRACE(std::string(find_codec(key)->name) + "/" + std::string(find_codec(value)->name));
    Case call{.kind = kind_of(key, value, {64, 64}), .rows = 5};
    const auto run = [&](Path path) {
      call.path = path;
      return World(call).run().out;
    };
    const std::vector<float> chosen = run(Path::kDecode);
    EXPECT_NE(chosen, run(Path::kUnfolded));
    if (bits_are_multiplied(key)) {
      EXPECT_NE(chosen, run(Path::kAnyCodecs));
    }
    call.scratch_sections = 0;
    EXPECT_EQ(chosen, run(Path::kPrefill));
  }
}

// Levels are the layer's: any that ascend. Of sixteen the kernel makes two bytes by their signs, so there are
// some of one sign, with 0 among the first eight, and with -1 and 0 among the others.
TEST_F(CudaAttend, StagedPagesHaveTheLevelsOfTheirLayer) {
  struct Line {
    int first;
    int step;
  };
  constexpr std::array kLines{Line{-120, 16}, Line{-127, 7}, Line{22, 7}, Line{-3, 1}, Line{-13, 1}};
  const auto levels_of = [](Line line, uint32_t bits) {
    std::vector<int8_t> levels;
    for (int i = 0; i < 1 << bits; ++i) levels.push_back(static_cast<int8_t>(line.first + line.step * i));
    return levels;
  };
  for (const auto& [key, value] : staged_pairs()) {
    const CodecInfo& codec = *find_codec(key);
    if (codec.family != CodecFamily::kNonUniform) continue;
    SCOPED_TRACE(codec.name);
    for (size_t i = 0; i < kLines.size(); ++i) {
      World({.kind = kind_of(key, value, {64, 64}),
             .rows = 5,
             .key_levels = levels_of(kLines[i], codec.bits),
             .value_levels = levels_of(kLines[(i + 1) % kLines.size()], codec.bits)})
          .expect_truth();
    }
  }
}

// A group beyond the last is the last, in bytes that no writer makes.
TEST_F(CudaAttend, StagedPagesTakeOutliersOfAnyGroup) {
  for (const auto& [key, value] : staged_pairs()) {
    if (!find_codec(key)->outliers) continue;
    SCOPED_TRACE(find_codec(key)->name);
    World({.kind = kind_of(key, value, {64, 64}), .rows = 11, .foreign_outliers = true}).expect_truth();
  }
}

// Scores that are all but nothing are finite, and masked tokens are not.
TEST_F(CudaAttend, MasksTokensOfVanishingKeys) {
  const std::vector<int32_t> first{0, 1, 40, 64, 70};
  for (const auto& [key, value] : staged_pairs()) {
    SCOPED_TRACE(std::string(find_codec(key)->name) + "/" + std::string(find_codec(value)->name));
    World({.kind = kind_of(key, value, {64, 64}),
           .rows = static_cast<uint32_t>(first.size()),
           .first = first,
           .key_size = 0x1p-40F,
           .query_size = 0.0F})
        .expect_truth();
  }
}

TEST_F(CudaAttend, AgreesWithF64OverStagedPages) {
  for (const auto& [key, value] : staged_pairs()) {
    for (const uint32_t dim : {64U, 128U}) {
      if (kSlice && dim == 128) continue;
      SCOPED_TRACE(std::string(find_codec(key)->name) + "/" + std::string(find_codec(value)->name) +
                   ", head_dim " + std::to_string(dim));
      const PageKind kind = kind_of(key, value, {64, dim});
      World({.kind = kind, .sections = 14, .run_sections = 13, .rows = 5}).expect_truth();
      World({.kind = kind, .heads = 2, .sections = 3, .rows = 19}).expect_truth();
    }
  }
}

TEST_F(CudaAttend, MasksTokensAndSeesSinksOfStagedPages) {
  const std::vector<int32_t> first{0, 1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 191, 192};
  for (const auto& [key, value] : staged_pairs()) {
    SCOPED_TRACE(std::string(find_codec(key)->name) + "/" + std::string(find_codec(value)->name));
    for (const uint32_t sinks : {0U, 3U}) {
      World({.kind = kind_of(key, value, {64, 64}, sinks),
             .sections = 3,
             .rows = static_cast<uint32_t>(first.size()),
             .first = first})
          .expect_truth();
    }
  }
}

TEST_F(CudaAttend, StagedPagesGiveTheSameBitsUnderEverySchedule) {
  for (const CodecId codec : {CodecId::kRot4, CodecId::kNuq3s}) {
    SCOPED_TRACE(find_codec(codec)->name);
    const World world({.kind = kind_of(codec, codec, {64, 64}, 4),
                       .heads = 2,
                       .sections = 11,
                       .run_sections = 10,
                       .rows = 4});
    const Output expected = world.run();
    for_all_schedules([&] { EXPECT_EQ(world.run().out, expected.out); });
  }
}

TEST_F(CudaAttend, GivesTheSameBitsUnderEverySchedule) {
  const World world({.kind = kind_of(CodecId::kRot4, CodecId::kInt4, {32, 64}, 4),
                     .heads = 2,
                     .sections = 6,
                     .run_sections = 5,
                     .rows = 11});
  const Output expected = world.run();
  for_all_schedules([&] {
    const Output output = world.run();
    EXPECT_EQ(output.out, expected.out);
    EXPECT_EQ(output.lse, expected.lse);
  });
}

TEST_F(CudaAttend, RefusesWhatHasNoKernels) {
  AttendArgs args{};
  args.format = section_format(kind_of(CodecId::kRot4, CodecId::kRot4, {64, 128}));
  args.section_count = args.run_sections = args.rows = args.kv_heads = 1;
  args.format.key.id = CodecId{200};
  EXPECT_EQ(attend_decode(args, nullptr), cudaErrorNotSupported);
  EXPECT_EQ(encode_sections({args.format, nullptr, nullptr, nullptr, nullptr, 1}, nullptr),
            cudaErrorNotSupported);
  EXPECT_EQ(decode_sections({args.format, nullptr, nullptr, nullptr, 1}, nullptr), cudaErrorNotSupported);
  args.format.key.id = CodecId::kRot4;
  args.format.shape.dim = 48;
  EXPECT_EQ(attend_decode(args, nullptr), cudaErrorInvalidValue);
}

TEST_F(CudaAttend, ALongContext) {
  if (kSlice) GTEST_SKIP() << "sanitizers see the same code over shorter contexts";
  World({.kind = kind_of(CodecId::kRot4, CodecId::kRot4, {64, 128}),
         .heads = 2,
         .sections = 32,
         .run_sections = 8,
         .rows = 4})
      .expect_truth();
}

}  // namespace
}  // namespace quire::cuda::test
