// Pages whose tokens lie in tensors of the engine's on the device, which are folded from there: byte for byte
// the CPU engine's.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>

#include "quant/half.h"
#include "tests/cuda/engine_runner.h"

namespace quire::testing {
namespace {

World world_of(CodecId codec) {
  World world;
  world.key_codec = world.value_codec = codec;
  world.layers = 1;
  world.page_tokens = 64;
  world.threads = 2;
  world.balance = find_codec(codec)->space == CodecSpace::kRotated;
  world.digests = true;
  world.device_budget = 16 * kMiB;
  return world;
}

void round_to(DType dtype, std::vector<float>* x) {
  for (float& value : *x) {
    if (dtype == DType::kBf16) value = bf16_to_f32(f32_to_bf16(value));
    if (dtype == DType::kF16) value = f16_to_f32(f32_to_f16(value));
  }
}

// A step's keys and values as an engine has them: between each token's rows of both is a gap, all in one
// buffer of the device.
class GivenTensors {
 public:
  GivenTensors(const World& world, DType dtype, const std::vector<float>& keys,
               const std::vector<float>& values)
      : row_(world.kv_row()), head_dim_(world.head_dim), dtype_(dtype) {
    const size_t tokens = keys.size() / row_;
    std::vector<uint8_t> all(tokens * stride() * dtype_bytes(dtype), 0xFF);
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t i = 0; i < row_; ++i) {
        write(&all, t * stride() + kGap + i, keys[t * row_ + i]);
        write(&all, t * stride() + kGap + row_ + i, values[t * row_ + i]);
      }
    }
    EXPECT_EQ(cudaMalloc(&data_, all.size()), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, all.data(), all.size(), cudaMemcpyHostToDevice), cudaSuccess);
  }
  GivenTensors(const GivenTensors&) = delete;
  GivenTensors& operator=(const GivenTensors&) = delete;
  ~GivenTensors() { EXPECT_EQ(cudaFree(data_), cudaSuccess); }

  KeysAndValues views() const { return {view_of(kGap), view_of(kGap + row_)}; }

 private:
  static constexpr size_t kGap = 8;

  size_t stride() const { return kGap + 2 * row_; }
  void write(std::vector<uint8_t>* all, size_t at, float value) const {
    const uint16_t half = dtype_ == DType::kBf16 ? f32_to_bf16(value) : f32_to_f16(value);
    uint8_t* to = all->data() + at * dtype_bytes(dtype_);
    dtype_ == DType::kF32 ? std::memcpy(to, &value, sizeof value) : std::memcpy(to, &half, sizeof half);
  }
  TensorView view_of(size_t at) const {
    return {static_cast<const uint8_t*>(data_) + at * dtype_bytes(dtype_), dtype_, stride(), head_dim_, true};
  }

  const size_t row_;
  const size_t head_dim_;
  const DType dtype_;
  void* data_ = nullptr;
};

// Appends in steps that end inside of pages, or at their ends, and have up to three whole ones.
Pages walk(Engine& engine, const World& world, DType dtype, bool on_device) {
  Sequence* sequence = *engine.cache().create_sequence();
  EXPECT_TRUE(engine.cache().set_rope(sequence, test_rope(world)).ok());
  uint64_t first = 0;
  for (const uint64_t count : {100U, 28U, 256U, 60U, 4U, 65U}) {
    const StepRequest request{sequence, first, count};
    Result<std::unique_ptr<OpenStep>> step = engine.cache().begin({&request, 1});
    EXPECT_TRUE(step.ok()) << step.status().message();
    std::vector<float> keys = rows(world, Row::kKey, 0, first, count);
    std::vector<float> values = rows(world, Row::kValue, 0, first, count);
    round_to(dtype, &keys);
    round_to(dtype, &values);
    const GivenTensors given(world, dtype, keys, values);
    const KeysAndValues there = given.views();
    const KeysAndValues here{view(keys, world.head_dim, world.kv_heads),
                             view(values, world.head_dim, world.kv_heads)};
    const KeysAndValues& taken = on_device ? there : here;
    EXPECT_TRUE(engine.cache().append(step->get(), 0, taken.keys, taken.values).ok());
    const Status status = engine.cache().wait(step->get());
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(engine.cache().end(step->get()).ok());
    first += count;
  }
  Pages pages = pages_of(engine, sequence);
  for (auto& digest : digests_of(engine, sequence)) pages.push_back(std::move(digest));
  return pages;
}

TEST_F(CudaEngine, FoldsTheEnginesTensorsToTheBytesOfTheCpu) {
  constexpr std::pair<CodecId, DType> kCases[] = {
      {CodecId::kRot4, DType::kF32},  {CodecId::kRot4, DType::kBf16}, {CodecId::kTcq2, DType::kF16},
      {CodecId::kInt4, DType::kBf16}, {CodecId::kBf16, DType::kBf16}, {CodecId::kNuq3s, DType::kF32}};
  for (const auto& [codec, dtype] : kCases) {
    SCOPED_TRACE(find_codec(codec)->name);
    World world = world_of(codec);
    const auto device = open_on_device(world);
    ASSERT_NE(device, nullptr);
    world.device_budget = 0;
    const Pages expected = walk(*open_engine(world), world, dtype, false);
    EXPECT_EQ(expected.size(), 2U * 8);
    EXPECT_EQ(walk(*device, world, dtype, true), expected);
  }
}

// Pages of one call, folded from `frames` or from what the engine has.
Pages fold(Engine& engine, const std::vector<const float*>& frames, const KeysAndValues* given) {
  Pages pages;
  const Status status = engine.cache().run([&]() -> Status {
    PageDevice& device = *engine.residency().device();
    const PageLayout& layout = engine.config().layer[0].layout;
    const size_t bytes = frames.size() * layout.bytes;
    uint8_t* slots = device.map(bytes);
    std::vector<uint8_t*> at;
    for (size_t i = 0; i < frames.size(); ++i) at.push_back(slots + i * layout.bytes);
    const Result<EncodedBatch> encoded = device.encode({0, false, frames, at, given});
    for (size_t i = 0; encoded.ok() && i < frames.size(); ++i) {
      const uint8_t* page = encoded->pages + i * encoded->stride;
      pages.emplace_back(page + layout.header_bytes, page + layout.bytes);
    }
    device.unmap(slots, bytes);
    return encoded.status();
  });
  EXPECT_TRUE(status.ok()) << status.message();
  return pages;
}

// Frames and tensors of unlike values tell which of the two were folded: frames where kernels cannot rotate.
TEST_F(CudaEngine, LooksAtFramesWhereItMust) {
  constexpr uint32_t kPages = 2;
  for (const uint32_t head_dim : {64U, 96U}) {
    for (const CodecId codec : {CodecId::kRot4, CodecId::kInt4}) {
      SCOPED_TRACE(std::string(find_codec(codec)->name) + ", head_dim " + std::to_string(head_dim));
      World world = world_of(codec);
      world.head_dim = head_dim;
      const auto engine = open_on_device(world);
      ASSERT_NE(engine, nullptr);
      const uint64_t tokens = uint64_t{kPages} * world.page_tokens;
      const std::vector<float> keys = rows(world, Row::kKey, 0, 0, tokens);
      const std::vector<float> values = rows(world, Row::kValue, 0, 0, tokens);
      const GivenTensors tensors(world, DType::kF32, keys, values);
      const KeysAndValues given = tensors.views();
      std::vector<float> fives(engine->config().frame_side_floats() * 2);
      std::vector<float> sevens(fives.size());
      for (size_t i = 0; i < fives.size(); ++i) {
        fives[i] = static_cast<float>(i % 5);
        sevens[i] = static_cast<float>(i % 7);
      }
      const Pages from_fives = fold(*engine, {fives.data(), fives.data()}, &given);
      const Pages from_sevens = fold(*engine, {sevens.data(), sevens.data()}, &given);
      const bool looks = head_dim == 96 && codec == CodecId::kRot4;
      EXPECT_EQ(from_fives != from_sevens, looks);
      EXPECT_EQ(from_fives == fold(*engine, {fives.data(), fives.data()}, nullptr), looks);
    }
  }
}

}  // namespace
}  // namespace quire::testing
