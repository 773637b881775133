// Pages that come up for one wave after another: each wave reads its own, however late the reader is.
#include "kvcache/device_cuda.h"
#include "kvcache/page_carrier_cuda.h"
#include "tests/cuda/engine_runner.h"

namespace quire::testing {
namespace {

TEST_F(CudaEngine, FramesAreNotWrittenBeforeTheyAreRead) {
  constexpr uint32_t kPages = 3;
  constexpr uint32_t kWaves = 7;
  const auto engine = open_engine(World{});  // for what it makes of its options
  const CacheConfig& config = engine->config();
  const auto bytes = static_cast<uint32_t>(config.largest_page_bytes());
  Budget device_budget(64 * kMiB);
  Budget host_budget(64 * kMiB);
  const PageDeviceSetup setup{config, device_budget, host_budget, kPages, kPages};
  const Result<std::unique_ptr<Device>> device = create_cuda_device({});
  ASSERT_TRUE(device.ok()) << device.status().message();

  cuda::PageCopy* copies = nullptr;
  uint8_t* read = nullptr;  // [kWaves][kPages][bytes]
  cudaStream_t reader = nullptr;
  ASSERT_EQ(cudaMallocHost(reinterpret_cast<void**>(&copies),
                           CudaPageCarrier::kSets * kPages * sizeof(cuda::PageCopy)),
            cudaSuccess);
  ASSERT_EQ(cudaMallocHost(reinterpret_cast<void**>(&read), size_t{kWaves} * kPages * bytes), cudaSuccess);
  ASSERT_EQ(cudaStreamCreateWithFlags(&reader, cudaStreamNonBlocking), cudaSuccess);
  {
    CudaPageCarrier carrier(0);
    ASSERT_TRUE(carrier.open(**device, setup, bytes, copies).ok());
    ASSERT_EQ(carrier.room(), kPages);
    const size_t all = size_t{kWaves} * kPages * bytes;
    uint8_t* pages = carrier.host_memory().map(all);
    ASSERT_NE(pages, nullptr);
    for (size_t i = 0; i < all; ++i) pages[i] = static_cast<uint8_t>(i / bytes + i % 251);
    for (uint32_t wave = 0; wave < kWaves; ++wave) {
      std::vector<CarriedPage> carried;
      for (uint32_t i = 0; i < kPages; ++i) {
        carried.push_back({pages + (size_t{wave} * kPages + i) * bytes, bytes});
      }
      const Result<CarriedFrames> frames = carrier.carry(carried, reader);
      ASSERT_TRUE(frames.ok()) << frames.status().message();
      for (uint32_t i = 0; i < kPages; ++i) {
        ASSERT_EQ(cudaMemcpyAsync(read + (size_t{wave} * kPages + i) * bytes,
                                  frames->first + i * frames->stride, bytes, cudaMemcpyDeviceToHost, reader),
                  cudaSuccess);
      }
    }
    ASSERT_EQ(cudaStreamSynchronize(reader), cudaSuccess);
    for (uint32_t page = 0; page < kWaves * kPages; ++page) {
      const size_t at = size_t{page} * bytes;
      EXPECT_TRUE(std::equal(read + at, read + at + bytes, pages + at)) << "page " << page;
    }
    carrier.host_memory().unmap(pages, all);
  }
  EXPECT_EQ(device_budget.used() + host_budget.used(), 0U);
  EXPECT_EQ(cudaStreamDestroy(reader), cudaSuccess);
  EXPECT_EQ(cudaFreeHost(read), cudaSuccess);
  EXPECT_EQ(cudaFreeHost(copies), cudaSuccess);
}

}  // namespace
}  // namespace quire::testing
