// The C API on a device: how it is chosen, and that the engine's own stream orders with Quire's.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>

#include "bindings/c/options.h"
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

// A step's tensors as an engine on the device has them: queries, keys and values of a token side by side,
// written by its stream.
class DeviceRows {
 public:
  DeviceRows(const World& world, void* stream) : world_(world), stream_(static_cast<cudaStream_t>(stream)) {
    const size_t bytes = size_t{kTokens} * (stride() + world.query_row()) * sizeof(float);
    EXPECT_EQ(cudaMalloc(&data_, bytes), cudaSuccess);
  }
  DeviceRows(const DeviceRows&) = delete;
  DeviceRows& operator=(const DeviceRows&) = delete;
  ~DeviceRows() { EXPECT_EQ(cudaFree(data_), cudaSuccess); }

  // Rows of `width` floats that begin `at` floats into each token's.
  quire_tensor write(const std::vector<float>& from, size_t at, size_t width) {
    const size_t bytes = width * sizeof(float);
    EXPECT_EQ(cudaMemcpy2DAsync(floats() + at, stride() * sizeof(float), from.data(), bytes, bytes, kTokens,
                                cudaMemcpyHostToDevice, stream_),
              cudaSuccess);
    return {floats() + at, QUIRE_F32, QUIRE_PLACE_DEVICE, stride(), 0};
  }
  quire_tensor out() { return {out_data(), QUIRE_F32, QUIRE_PLACE_DEVICE, 0, 0}; }
  std::vector<float> read_out() {
    std::vector<float> out(size_t{kTokens} * world_.query_row());
    EXPECT_EQ(
        cudaMemcpyAsync(out.data(), out_data(), out.size() * sizeof(float), cudaMemcpyDeviceToHost, stream_),
        cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    return out;
  }

 private:
  size_t stride() const { return world_.query_row() + 2 * size_t{world_.kv_heads} * world_.head_dim; }
  float* floats() { return static_cast<float*>(data_); }
  float* out_data() { return floats() + kTokens * stride(); }

  const World world_;
  const cudaStream_t stream_;
  void* data_ = nullptr;
};

// Outputs of one step of kTokens; rows: where the tensors lie, or nullptr for the host.
std::vector<float> attend_step(quire_cache* cache, const World& world, EngineStream* stream,
                               DeviceRows* device) {
  quire_sequence* sequence = nullptr;
  EXPECT_EQ(quire_sequence_create(cache, &sequence), QUIRE_OK);
  std::vector<float> keys = rows(world, Row::kKey, 0, 0, kTokens);
  std::vector<float> values = rows(world, Row::kValue, 0, 0, kTokens);
  std::vector<float> queries = rows(world, Row::kQuery, 0, 0, kTokens);
  std::vector<float> out(queries.size());
  const size_t query_row = world.query_row();
  const size_t kv_row = size_t{world.kv_heads} * world.head_dim;
  quire_step_options options{};
  options.struct_size = sizeof options;
  options.stream = stream->handle();
  const quire_step_entry entry{sequence, 0, kTokens};
  quire_step* step = nullptr;
  EXPECT_EQ(quire_step_begin(cache, &entry, 1, &options, &step), QUIRE_OK);
  quire_append_args append{};
  append.struct_size = sizeof append;
  append.keys = device == nullptr ? tensor(keys) : device->write(keys, query_row, kv_row);
  append.values = device == nullptr ? tensor(values) : device->write(values, query_row + kv_row, kv_row);
  EXPECT_EQ(quire_append(step, 0, &append), QUIRE_OK) << quire_last_error(cache);
  quire_attend_args attend{};
  attend.struct_size = sizeof attend;
  attend.queries = device == nullptr ? tensor(queries) : device->write(queries, 0, query_row);
  attend.out = device == nullptr ? tensor(out) : device->out();
  EXPECT_EQ(quire_attend(step, 0, &attend), QUIRE_OK) << quire_last_error(cache);
  EXPECT_EQ(quire_step_wait(step), QUIRE_OK) << quire_last_error(cache);
  EXPECT_EQ(quire_step_end(step), QUIRE_OK);
  EXPECT_EQ(quire_sequence_free(sequence), QUIRE_OK);
  return device == nullptr ? out : device->read_out();
}

TEST_F(CudaEngine, TensorsOnTheDeviceGiveTheHostsBits) {
  const World world = api_world();
  const quire_options options = api_options(world);
  quire_cache* cache = nullptr;
  ASSERT_EQ(quire_open(&options, &cache), QUIRE_OK) << quire_last_error(nullptr);
  {
    EngineStream stream;
    DeviceRows device(world, stream.handle());
    const std::vector<float> on_host = attend_step(cache, world, &stream, nullptr);
    EXPECT_EQ(attend_step(cache, world, &stream, &device), on_host);
  }
  EXPECT_EQ(quire_close(cache), QUIRE_OK);
}

TEST_F(CudaEngine, ATensorOnADeviceNeedsACacheThere) {
  const World world = api_world();
  quire_options options = api_options(world);
  options.device = QUIRE_DEVICE_CPU;
  quire_cache* cache = nullptr;
  ASSERT_EQ(quire_open(&options, &cache), QUIRE_OK) << quire_last_error(nullptr);
  quire_sequence* sequence = nullptr;
  ASSERT_EQ(quire_sequence_create(cache, &sequence), QUIRE_OK);
  const quire_step_entry entry{sequence, 0, 1};
  quire_step* step = nullptr;
  ASSERT_EQ(quire_step_begin(cache, &entry, 1, nullptr, &step), QUIRE_OK);
  std::vector<float> row(world.query_row());
  quire_append_args append{};
  append.struct_size = sizeof append;
  append.keys = append.values = tensor(row);
  append.values.place = QUIRE_PLACE_DEVICE;
  EXPECT_EQ(quire_append(step, 0, &append), QUIRE_UNSUPPORTED);
  EXPECT_NE(std::string(quire_last_error(cache)).find("tensor values lies on a device"), std::string::npos);
  EXPECT_EQ(quire_step_end(step), QUIRE_INVALID);  // it lacks its layer
  EXPECT_EQ(quire_close(cache), QUIRE_OK);
}

TEST_F(CudaEngine, SpeedsComeFromTheOptions) {
  const World world = api_world();
  quire_options options = api_options(world);
  options.device_link_speed = 1;
  options.host_attend_speed = 2;
  options.device_attend_speed = 3;
  const Result<EngineOptions> opened = ::quire::engine_options(options);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  EXPECT_EQ(opened->config.speeds.link, 1);
  EXPECT_EQ(opened->config.speeds.host, 2);
  EXPECT_EQ(opened->config.speeds.device, 3);
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
