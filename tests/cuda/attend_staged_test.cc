// Attention by the kernels of a pair of codecs known when they were compiled, against f64 over the decoded
// values.
#include "tests/cuda/attend_world.h"

namespace quire::cuda::test {
namespace {

class CudaStaged : public CudaTest {};

std::vector<std::pair<CodecId, CodecId>> staged_pairs() {
  if (kSlice) {
    return {{CodecId::kRot4, CodecId::kRot4},
            {CodecId::kInt4, CodecId::kInt4},
            {CodecId::kNuq4, CodecId::kNuq4},
            {CodecId::kNuq3s, CodecId::kNuq3s}};
  }
  return {{CodecId::kRot4, CodecId::kRot4}, {CodecId::kRot3, CodecId::kRot3},
          {CodecId::kRot2, CodecId::kRot2}, {CodecId::kRot3, CodecId::kRot2},
          {CodecId::kTcq4, CodecId::kTcq4}, {CodecId::kTcq3, CodecId::kTcq3},
          {CodecId::kTcq2, CodecId::kTcq2}, {CodecId::kTcq3, CodecId::kTcq2},
          {CodecId::kInt8, CodecId::kInt8}, {CodecId::kInt4, CodecId::kInt4},
          {CodecId::kInt3, CodecId::kInt3}, {CodecId::kInt2, CodecId::kInt2},
          {CodecId::kNuq4, CodecId::kNuq4}, {CodecId::kNuq4s, CodecId::kNuq4s},
          {CodecId::kNuq3, CodecId::kNuq3}, {CodecId::kNuq3s, CodecId::kNuq3s},
          {CodecId::kNuq2, CodecId::kNuq2}, {CodecId::kNuq2s, CodecId::kNuq2s}};
}

// Decode takes the pair's own kernel, and prefill that has no scratch: the bits say that it was no other.
TEST_F(CudaStaged, PairsHaveKernelsOfTheirOwn) {
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
TEST_F(CudaStaged, HasTheLevelsOfTheLayer) {
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
TEST_F(CudaStaged, TakesOutliersOfAnyGroup) {
  for (const auto& [key, value] : staged_pairs()) {
    if (!find_codec(key)->outliers) continue;
    SCOPED_TRACE(find_codec(key)->name);
    World({.kind = kind_of(key, value, {64, 64}), .rows = 11, .foreign_outliers = true}).expect_truth();
  }
}

// Scores that are all but nothing are finite, and masked tokens are not.
TEST_F(CudaStaged, MasksTokensOfVanishingKeys) {
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

TEST_F(CudaStaged, AgreesWithF64) {
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

TEST_F(CudaStaged, MasksTokensAndSeesSinks) {
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

TEST_F(CudaStaged, GivesTheSameBitsUnderEverySchedule) {
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

}  // namespace
}  // namespace quire::cuda::test
