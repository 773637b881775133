// Pages that come up for one wave after another: each wave reads its own, however late the reader is.
#include "kvcache/device_cuda.h"
#include "kvcache/os_memory.h"
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

// Of what a step's pages leave of the budget, until a wave's pages have their frames.
TEST_F(CudaEngine, FramesOfBothSetsAreASixteenthOfTheBudget) {
  constexpr uint32_t kWavePages = 100;
  const auto engine = open_engine(World{});
  const CacheConfig& config = engine->config();
  const uint64_t page = config.largest_page_bytes();
  const uint64_t step = config.step_full_pages() * round_to_os_pages(page);
  const Result<std::unique_ptr<Device>> device = create_cuda_device({});
  ASSERT_TRUE(device.ok()) << device.status().message();
  std::vector<cuda::PageCopy> copies(size_t{CudaPageCarrier::kSets} * kWavePages);
  uint32_t cases = 0;
  for (const uint64_t share : {page, 2 * page, 11 * page, 1000 * page}) {
    Budget device_budget(step + 16 * share);
    Budget host_budget(kMiB);
    CudaPageCarrier carrier(0);
    ASSERT_TRUE(
        carrier
            .open(**device, {config, device_budget, host_budget, kWavePages, kWavePages}, page, copies.data())
            .ok());
    EXPECT_EQ(carrier.room(), std::min<uint64_t>(kWavePages, share / page / 2));
    EXPECT_GE(device_budget.used(), 2 * carrier.room() * page);
    EXPECT_LE(device_budget.used(), share + page) << "with what tells the device where pages come from";
    ++cases;
  }
  std::printf("[counts] cases=%u\n", cases);
}

}  // namespace
}  // namespace quire::testing
