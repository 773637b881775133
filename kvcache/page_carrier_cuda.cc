#include "kvcache/page_carrier_cuda.h"

#include <algorithm>

#include "kvcache/os_memory.h"
#include "quant/carver.h"

namespace quire {
namespace {

constexpr uint64_t kFramesShare = 16;

}  // namespace

uint8_t* PinnedMemory::map(size_t bytes) {
  uint8_t* data = nullptr;
  if (!refused_ && cudaSetDevice(index_) == cudaSuccess &&
      cudaMallocHost(reinterpret_cast<void**>(&data), bytes) == cudaSuccess) {
    return data;
  }
  (void)cudaGetLastError();  // else the next launch would report it
  refused_ = true;
  data = map_os_pages(bytes);
  if (data != nullptr) plain_.insert(data);
  return data;
}

void PinnedMemory::unmap(uint8_t* data, size_t bytes) {
  if (plain_.erase(data) > 0) {
    unmap_os_pages(data, bytes);
  } else {
    (void)cudaFreeHost(data);
  }
}

void PinnedMemory::pin(std::span<uint8_t> memory) {
  if (!refused_ && cudaSetDevice(index_) == cudaSuccess &&
      cudaHostRegister(memory.data(), memory.size(), cudaHostRegisterPortable) == cudaSuccess) {
    return;
  }
  (void)cudaGetLastError();
  refused_ = true;
}

void PinnedMemory::unpin(std::span<uint8_t> memory) {
  if (cudaHostUnregister(memory.data()) != cudaSuccess) (void)cudaGetLastError();
}

Status CudaPageCarrier::open(Device& device, const PageDeviceSetup& setup, size_t stride,
                             cuda::PageCopy* copies) {
  copies_ = copies;
  stride_ = stride;
  const CacheConfig& config = setup.config;
  const uint64_t step = config.step_full_pages() * round_to_os_pages(config.largest_page_bytes());
  const uint64_t left = setup.device_budget.available();
  const uint64_t share = left > step ? (left - step) / kFramesShare : 0;
  const auto count = static_cast<uint32_t>(std::min<uint64_t>(setup.wave_pages, share / stride));
  if (count == 0) return {};
  const auto carve = [&](uint8_t* base) {
    Carver carver(base);
    copies_on_device_ = carver.take<cuda::PageCopy>(count);
    frames_ = carver.take<uint8_t>(count * stride);
    return carver.used();
  };
  const size_t bytes = carve(nullptr);
  if (Status status = charge_.take(setup.device_budget, bytes); !status.ok()) return status;
  Result<DeviceBuffer> buffer = device.allocate(bytes);
  if (!buffer.ok()) return buffer.status();
  buffer_ = std::move(*buffer);
  carve(buffer_.data());
  frame_count_ = count;
  return {};
}

cudaError_t CudaPageCarrier::carry(std::span<const CarriedPage> pages, cudaStream_t stream) {
  for (size_t i = 0; i < pages.size(); ++i) copies_[i] = {pages[i].from, frames_ + i * stride_};
  cudaError_t error = cudaMemcpyAsync(copies_on_device_, copies_, pages.size() * sizeof(cuda::PageCopy),
                                      cudaMemcpyHostToDevice, stream);
  // A launch for all of one size: pages 0 have their own.
  for (size_t first = 0; first < pages.size() && error == cudaSuccess;) {
    size_t end = first;
    while (end < pages.size() && pages[end].bytes == pages[first].bytes) ++end;
    error = cuda::copy_pages(
        {copies_on_device_ + first, static_cast<uint32_t>(end - first), pages[first].bytes}, stream);
    first = end;
  }
  return error;
}

}  // namespace quire
