// The CUDA device on the emulator: what every device promises, and what only this one can get wrong.
#include <gtest/gtest.h>

#include <array>

#include "kvcache/device_cuda.h"
#include "tests/emu/testing.h"
#include "tests/kvcache/device_contract.h"

namespace quire {
namespace {

std::unique_ptr<Device> cuda_device() { return expect_created(create_cuda_device()); }

const Implementation kCuda{"Cuda", cuda_device};
INSTANTIATE_TEST_SUITE_P(Cuda, DeviceContract, testing::Values(kCuda),
                         [](const auto& tested) { return tested.param.name; });

class CudaDeviceTest : public emu::test::EmuTest {};

TEST_F(CudaDeviceTest, ReportsWhatThereIsNot) {
  EXPECT_EQ(create_cuda_device({.index = 1}).status().code(), StatusCode::kUnsupported);
  emu::settings().devices = 0;
  const Result<std::unique_ptr<Device>> none = create_cuda_device();
  EXPECT_EQ(none.status().code(), StatusCode::kUnsupported);
  EXPECT_NE(none.status().message().find("looking for GPUs"), std::string::npos);
}

TEST_F(CudaDeviceTest, ALostDeviceIsAStatusOfEveryCall) {
  const std::unique_ptr<Device> device = cuda_device();
  const std::unique_ptr<Stream> stream = expect_created(device->create_stream());
  const std::unique_ptr<Event> event = expect_created(device->create_event());
  Result<DeviceBuffer> buffer = device->allocate(256);
  ASSERT_TRUE(buffer.ok());
  bool ran = false;
  std::array<uint8_t, 256> host{};
  expect_ok(stream->launch([&ran] { ran = true; }));
  emu::lose_device();
  EXPECT_EQ(stream->synchronize().code(), StatusCode::kDeviceLost);
  EXPECT_FALSE(ran);
  EXPECT_EQ(stream->launch([] {}).code(), StatusCode::kDeviceLost);
  EXPECT_EQ(stream->copy(host.data(), buffer->data(), 256).code(), StatusCode::kDeviceLost);
  EXPECT_EQ(stream->record(*event).code(), StatusCode::kDeviceLost);
  EXPECT_EQ(event->query().code(), StatusCode::kDeviceLost);
  EXPECT_EQ(device->allocate(64).status().code(), StatusCode::kDeviceLost);
  EXPECT_EQ(device->create_stream().status().code(), StatusCode::kDeviceLost);
  EXPECT_EQ(device->create_event().status().code(), StatusCode::kDeviceLost);
  buffer->reset();
  EXPECT_EQ(emu::counters().allocations, 0U);
}

TEST_F(CudaDeviceTest, WithoutMemoryItGoesOn) {
  const std::unique_ptr<Device> device = cuda_device();
  EXPECT_EQ(device->allocate(emu::settings().device_bytes + 1).status().code(), StatusCode::kOverBudget);
  EXPECT_TRUE(device->allocate(64).ok());
}

TEST_F(CudaDeviceTest, TheEnginesStreamIsOrderedWithOurs) {
  const std::unique_ptr<Device> device = cuda_device();
  cudaStream_t engine = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&engine, cudaStreamNonBlocking), cudaSuccess);
  {
    const std::unique_ptr<Stream> adopted = expect_created(adopt_cuda_stream(*device, engine));
    const std::unique_ptr<Stream> ours = expect_created(device->create_stream());
    const std::unique_ptr<Event> produced = expect_created(device->create_event());
    int value = 0;
    int seen = 0;
    ASSERT_EQ(cudaLaunchHostFunc(
                  engine, [](void* data) { *static_cast<int*>(data) = 7; }, &value),
              cudaSuccess);
    expect_ok(adopted->record(*produced));
    expect_ok(ours->wait(*produced));
    expect_ok(ours->copy(&seen, &value, sizeof value));
    expect_ok(ours->synchronize());
    EXPECT_EQ(seen, 7);
  }
  EXPECT_EQ(cudaStreamDestroy(engine), cudaSuccess);
}

TEST_F(CudaDeviceTest, PeersAreEnabledAnyNumberOfTimes) {
  emu::settings().devices = 2;
  const std::unique_ptr<Device> device = cuda_device();
  expect_ok(enable_cuda_peer(*device, 1));
  expect_ok(enable_cuda_peer(*device, 1));
  EXPECT_EQ(enable_cuda_peer(*device, 2).code(), StatusCode::kInvalid);
}

}  // namespace
}  // namespace quire
