// The C API on a device: how it is chosen, and that the engine's own stream orders with Quire's.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>

#include "bindings/c/quire.h"
#include "tests/cuda/engine_runner.h"

namespace quire::testing {
namespace {

constexpr uint32_t kTokens = 200;

World api_world() {
  World world;
  world.layers = 1;
  world.page_tokens = 64;
  return world;
}

quire_options api_options(const World& world) {
  quire_options options;
  quire_options_init(&options);
  options.layers = world.layers;
  options.query_heads = world.query_heads;
  options.kv_heads = world.kv_heads;
  options.head_dim = world.head_dim;
  options.key_codec = options.value_codec = QUIRE_CODEC_INT8;
  options.host_budget = 64 * kMiB;
  options.device_budget = 16 * kMiB;
  options.device = QUIRE_DEVICE_CUDA;
  options.threads = 2;
  return options;
}

// A stream of the engine's, whose work writes keys and values late.
class EngineStream {
 public:
  EngineStream() { EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess); }
  ~EngineStream() { EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess); }
  EngineStream(const EngineStream&) = delete;
  EngineStream& operator=(const EngineStream&) = delete;

  void* handle() const { return stream_; }
  // `to` holds what `from` does when the stream has come so far.
  void write(std::vector<float>* to, const std::vector<float>& from) {
    works_.push_back(std::make_unique<Work>(Work{to, &from}));
    const auto run = [](void* data) {
      const auto* work = static_cast<const Work*>(data);
      std::memcpy(work->to->data(), work->from->data(), work->from->size() * sizeof(float));
    };
    EXPECT_EQ(cudaLaunchHostFunc(stream_, run, works_.back().get()), cudaSuccess);
  }

 private:
  struct Work {
    std::vector<float>* to;
    const std::vector<float>* from;
  };
  cudaStream_t stream_ = nullptr;
  std::vector<std::unique_ptr<Work>> works_;
};

quire_tensor tensor(std::vector<float>& rows) { return {rows.data(), QUIRE_F32, QUIRE_PLACE_HOST, 0, 0}; }

TEST_F(CudaEngine, TheEnginesStreamComesFirst) {
  const World world = api_world();
  const quire_options options = api_options(world);
  quire_cache* cache = nullptr;
  ASSERT_EQ(quire_open(&options, &cache), QUIRE_OK) << quire_last_error(nullptr);
  quire_sequence* sequence = nullptr;
  ASSERT_EQ(quire_sequence_create(cache, &sequence), QUIRE_OK);
  const std::vector<float> keys = rows(world, Row::kKey, 0, 0, kTokens);
  const std::vector<float> values = rows(world, Row::kValue, 0, 0, kTokens);
  const std::vector<float> queries = rows(world, Row::kQuery, 0, 0, kTokens);
  std::vector<float> late_keys(keys.size());
  std::vector<float> late_values(values.size());
  std::vector<float> late_queries(queries.size());
  std::vector<float> out(queries.size());
  {
    EngineStream stream;
    quire_step_options step_options{};
    step_options.struct_size = sizeof step_options;
    step_options.stream = stream.handle();
    const quire_step_entry entry{sequence, 0, kTokens};
    quire_step* step = nullptr;
    ASSERT_EQ(quire_step_begin(cache, &entry, 1, &step_options, &step), QUIRE_OK);
    stream.write(&late_keys, keys);
    stream.write(&late_values, values);
    quire_append_args append{};
    append.struct_size = sizeof append;
    append.keys = tensor(late_keys);
    append.values = tensor(late_values);
    ASSERT_EQ(quire_append(step, 0, &append), QUIRE_OK) << quire_last_error(cache);
    stream.write(&late_queries, queries);
    quire_attend_args attend{};
    attend.struct_size = sizeof attend;
    attend.queries = tensor(late_queries);
    attend.out = tensor(out);
    ASSERT_EQ(quire_attend(step, 0, &attend), QUIRE_OK) << quire_last_error(cache);
    ASSERT_EQ(quire_step_wait(step), QUIRE_OK) << quire_last_error(cache);
    EXPECT_EQ(quire_step_end(step), QUIRE_OK);
  }
  const float* last = out.data() + size_t{kTokens - 1} * world.query_row();
  EXPECT_LT(relative_error(last, attend_reference(world, 0, kTokens - 1)), 1.5e-2);
  quire_stats stats{};
  stats.struct_size = sizeof stats;
  ASSERT_EQ(quire_cache_stats(cache, &stats), QUIRE_OK);
  EXPECT_EQ(stats.device_pages, kTokens / 64);
  EXPECT_EQ(quire_close(cache), QUIRE_OK);
}

TEST_F(CudaEngine, ChoosesADeviceThatThereIs) {
  quire_capabilities_info info{};
  info.struct_size = sizeof info;
  ASSERT_EQ(quire_capabilities(&info), QUIRE_OK);
  EXPECT_EQ(info.cuda, 1U);
  quire_options options = api_options(api_world());
  quire_cache* cache = nullptr;
  options.device = QUIRE_DEVICE_CUDA + 77;
  EXPECT_EQ(quire_open(&options, &cache), QUIRE_UNSUPPORTED);
  EXPECT_NE(std::string(quire_last_error(nullptr)).find("cuda:77: this machine has"), std::string::npos);
  options.device = QUIRE_DEVICE_CUDA;
  options.device_budget = 0;
  EXPECT_EQ(quire_open(&options, &cache), QUIRE_INVALID);
  EXPECT_EQ(cache, nullptr);
}

TEST_F(CudaEngine, ACacheOnTheCpuTakesNoStream) {
  quire_options options = api_options(api_world());
  options.device = QUIRE_DEVICE_CPU;
  quire_cache* cache = nullptr;
  ASSERT_EQ(quire_open(&options, &cache), QUIRE_OK) << quire_last_error(nullptr);
  const EngineStream stream;
  quire_step_options step_options{};
  step_options.struct_size = sizeof step_options;
  step_options.stream = stream.handle();
  quire_step* step = nullptr;
  EXPECT_EQ(quire_step_begin(cache, nullptr, 0, &step_options, &step), QUIRE_UNSUPPORTED);
  EXPECT_NE(std::string(quire_last_error(cache)).find("device = QUIRE_DEVICE_CUDA"), std::string::npos);
  EXPECT_EQ(quire_close(cache), QUIRE_OK);
}

}  // namespace
}  // namespace quire::testing
