// The runtime: lazy streams, events, errors, kinds of memory.
#include <array>

#include "tests/emu/testing.h"

namespace emu::test {
namespace {

void fill(float* out, float value) { out[threadIdx.x] = value; }
void fails(float* out) { out[0] = quire::cuda::load_as<float4>(reinterpret_cast<char*>(out) + 4).x; }

class RuntimeTest : public EmuTest {
 protected:
  void SetUp() override {
    ASSERT_EQ(cudaStreamCreateWithFlags(&producer_, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaStreamCreateWithFlags(&consumer_, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), cudaSuccess);
  }
  void TearDown() override {
    reset_errors();
    EXPECT_EQ(cudaEventDestroy(event_), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(producer_), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(consumer_), cudaSuccess);
    EmuTest::TearDown();
  }

  // A kernel in one stream, a copy of what it wrote in the other.
  float produce_and_consume(bool with_event) {
    const DeviceArray<float> data(std::vector<float>(32, -1.0F));
    std::array<float, 32> seen{};
    EXPECT_EQ(launch({1, 32, 0, producer_}, fill, data.data(), 3.0F), cudaSuccess);
    if (with_event) {
      EXPECT_EQ(cudaEventRecord(event_, producer_), cudaSuccess);
      EXPECT_EQ(cudaEventQuery(event_), cudaErrorNotReady);
      EXPECT_EQ(cudaStreamWaitEvent(consumer_, event_, 0), cudaSuccess);
    }
    EXPECT_EQ(cudaMemcpyAsync(seen.data(), data.data(), sizeof(seen), cudaMemcpyDeviceToHost, consumer_),
              cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(consumer_), cudaSuccess);
    if (with_event) {
      EXPECT_EQ(cudaEventQuery(event_), cudaSuccess);
    }
    EXPECT_EQ(cudaStreamSynchronize(producer_), cudaSuccess);
    return seen[7];
  }

  cudaStream_t producer_ = nullptr;
  cudaStream_t consumer_ = nullptr;
  cudaEvent_t event_ = nullptr;
};

TEST_F(RuntimeTest, AForgottenEventGivesStaleData) {
  EXPECT_EQ(produce_and_consume(true), 3.0F);
  EXPECT_EQ(produce_and_consume(false), -1.0F);
}

TEST_F(RuntimeTest, WithoutLazyStreamsWorkRunsAtOnce) {
  settings().lazy_streams = false;
  const DeviceArray<float> data(32);
  EXPECT_EQ(launch({1, 32, 0, producer_}, fill, data.data(), 3.0F), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(producer_), cudaSuccess);
}

TEST_F(RuntimeTest, FreshDeviceMemoryIsNotZero) {
  const DeviceArray<float> data(8);
  EXPECT_TRUE(std::isnan(data.host()[5]));
}

TEST_F(RuntimeTest, CopiesCheckKindsAndBounds) {
  const DeviceArray<float> data(8);
  std::array<float, 16> host{};
  EXPECT_EQ(cudaMemcpy(host.data(), host.data() + 8, 16, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host.data(), data.data(), 64, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host.data(), data.data(), 32, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host.data(), data.data(), 32, cudaMemcpyDefault), cudaSuccess);
  EXPECT_EQ(cudaMemset(host.data(), 0, 32), cudaErrorInvalidValue);
}

TEST_F(RuntimeTest, AFailedKernelIsAStickyError) {
  const DeviceArray<float> data(32);
  EXPECT_EQ(launch({1, 1, 0, producer_}, fails, data.data()), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(producer_), cudaErrorLaunchFailure);
  EXPECT_EQ(launch({1, 32, 0, producer_}, fill, data.data(), 3.0F), cudaErrorLaunchFailure);
  EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
  EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
  EXPECT_NE(std::string(cudaGetErrorString(cudaErrorLaunchFailure)).find("block (0,0,0) thread (0,0,0)"),
            std::string::npos);
}

TEST_F(RuntimeTest, OtherErrorsAreReportedOnce) {
  void* data = nullptr;
  EXPECT_EQ(cudaMalloc(&data, settings().device_bytes + 1), cudaErrorMemoryAllocation);
  EXPECT_EQ(data, nullptr);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(RuntimeTest, HostMemoryIsPinnedOnce) {
  std::vector<char> memory(8192);
  EXPECT_EQ(cudaHostRegister(memory.data(), memory.size(), 0), cudaSuccess);
  EXPECT_EQ(cudaHostRegister(memory.data() + 100, 10, 0), cudaErrorHostMemoryAlreadyRegistered);
  cudaPointerAttributes attributes{};
  EXPECT_EQ(cudaPointerGetAttributes(&attributes, memory.data() + 4000), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeHost);
  EXPECT_EQ(cudaHostUnregister(memory.data()), cudaSuccess);
  EXPECT_EQ(cudaHostUnregister(memory.data()), cudaErrorHostMemoryNotRegistered);
}

TEST_F(RuntimeTest, NoMoreHostMemoryIsPinnedThanThereMayBe) {
  std::vector<char> memory(4096);
  void* data = nullptr;
  const uint64_t before = counters().pinnings;
  settings().pinned_bytes = counters().pinned_bytes + 8192;
  ASSERT_EQ(cudaMallocHost(&data, 8192), cudaSuccess);
  void* more = nullptr;
  EXPECT_EQ(cudaMallocHost(&more, 1), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaHostRegister(memory.data(), memory.size(), 0), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaFreeHost(data), cudaSuccess);
  EXPECT_EQ(cudaHostRegister(memory.data(), memory.size(), 0), cudaSuccess);
  EXPECT_EQ(cudaHostUnregister(memory.data()), cudaSuccess);
  EXPECT_EQ(counters().pinned_bytes + 8192, settings().pinned_bytes);
  EXPECT_EQ(counters().pinnings, before + 2);
}

TEST_F(RuntimeTest, HostFunctionsTakePartInTheOrder) {
  std::vector<int> order;
  const auto push = [](void* data) { static_cast<std::vector<int>*>(data)->push_back(1); };
  EXPECT_EQ(cudaLaunchHostFunc(producer_, push, &order), cudaSuccess);
  EXPECT_TRUE(order.empty());
  EXPECT_EQ(cudaEventRecord(event_, producer_), cudaSuccess);
  EXPECT_EQ(cudaLaunchHostFunc(producer_, push, &order), cudaSuccess);
  EXPECT_EQ(cudaEventSynchronize(event_), cudaSuccess);
  EXPECT_EQ(order.size(), 1U);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(order.size(), 2U);
}

TEST_F(RuntimeTest, FreeingInAStreamWaitsForItsWork) {
  void* data = nullptr;
  ASSERT_EQ(cudaMallocAsync(&data, 128, producer_), cudaSuccess);
  EXPECT_EQ(launch({1, 32, 0, producer_}, fill, static_cast<float*>(data), 3.0F), cudaSuccess);
  EXPECT_EQ(cudaFreeAsync(data, producer_), cudaSuccess);
  EXPECT_EQ(counters().allocations, 1U);
  EXPECT_EQ(cudaStreamSynchronize(producer_), cudaSuccess) << last_failure();
  EXPECT_EQ(counters().allocations, 0U);
}

TEST_F(RuntimeTest, DevicesAreChosenAndPeersEnabledOnce) {
  settings().devices = 2;
  int can = 0;
  EXPECT_EQ(cudaDeviceCanAccessPeer(&can, 0, 1), cudaSuccess);
  EXPECT_EQ(can, 1);
  EXPECT_EQ(cudaDeviceEnablePeerAccess(1, 0), cudaSuccess);
  EXPECT_EQ(cudaDeviceEnablePeerAccess(1, 0), cudaErrorPeerAccessAlreadyEnabled);
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
}

}  // namespace
}  // namespace emu::test
