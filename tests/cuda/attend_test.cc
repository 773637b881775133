// Attention of the kernels against f64 over the decoded values: codecs, shapes, rows, masks, sinks, runs.
#include "tests/cuda/attend_world.h"

namespace quire::cuda::test {
namespace {

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
  EXPECT_EQ(encode_sections({args.format, {}, {}, nullptr, nullptr, 1}, nullptr), cudaErrorNotSupported);
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
