#include "kvcache/page_carrier_cuda.h"

#include <algorithm>

#include "kvcache/os_memory.h"
#include "quant/carver.h"

namespace quire {
namespace {

constexpr uint64_t kFrameShare = 16;  // of the budget, for both sets together

}  // namespace

Status CudaPageCarrier::open(Device& device, const PageDeviceSetup& setup, size_t stride,
                             cuda::PageCopy* copies) {
  stride_ = stride;
  host_memory_.prepare(setup.host_budget);
  const CacheConfig& config = setup.config;
  const uint64_t step = config.step_full_pages() * round_to_os_pages(config.largest_page_bytes());
  const uint64_t left = setup.device_budget.available();
  const uint64_t share = left > step ? (left - step) / kFrameShare : 0;
  const auto count = static_cast<uint32_t>(std::min<uint64_t>(setup.wave_pages, share / (kSets * stride)));
  if (count == 0) return {};
  const auto carve = [&](uint8_t* base) {
    Carver carver(base);
    for (FrameSet& set : sets_) {
      set.copies_on_device = carver.take<cuda::PageCopy>(count);
      set.frames = carver.take<uint8_t>(count * stride);
    }
    return carver.used();
  };
  const size_t bytes = carve(nullptr);
  if (Status status = charge_.take(setup.device_budget, bytes); !status.ok()) return status;
  Result<DeviceBuffer> buffer = device.allocate(bytes);
  if (!buffer.ok()) return buffer.status();
  buffer_ = std::move(*buffer);
  carve(buffer_.data());
  if (Status status = queue_.open(std::string(device.name())); !status.ok()) return status;
  for (FrameSet& set : sets_) {
    set.copies = copies;
    copies += setup.wave_pages;
    if (Status status = set.copied.open(); !status.ok()) return status;
    if (Status status = set.read.open(); !status.ok()) return status;
  }
  frame_count_ = count;
  return {};
}

Result<CarriedFrames> CudaPageCarrier::carry(std::span<const CarriedPage> pages, cudaStream_t reader) {
  if (Status status = queue_.select(); !status.ok()) return status;
  FrameSet& set = sets_[next_];
  next_ = (next_ + 1) % kSets;
  // All that reads the other set has been given to the reader: nothing will when it is written again.
  queue_.note(sets_[next_].read.mark(reader));
  queue_.note(set.copied.wait());
  queue_.note(set.read.hold(queue_.stream()));
  copy(pages, set);
  queue_.note(set.copied.mark(queue_.stream()));
  queue_.note(set.copied.hold(reader));
  if (Status status = queue_.take_error("carrying pages"); !status.ok()) return status;
  return CarriedFrames{set.frames, stride_};
}

void CudaPageCarrier::copy(std::span<const CarriedPage> pages, FrameSet& set) {
  for (size_t i = 0; i < pages.size(); ++i) set.copies[i] = {pages[i].from, set.frames + i * stride_};
  queue_.up(set.copies_on_device, set.copies, pages.size());
  // A launch for all of one size: pages 0 have their own.
  for (size_t first = 0; first < pages.size();) {
    size_t end = first;
    while (end < pages.size() && pages[end].bytes == pages[first].bytes) ++end;
    queue_.note(cuda::copy_pages(
        {set.copies_on_device + first, static_cast<uint32_t>(end - first), pages[first].bytes},
        queue_.stream()));
    first = end;
  }
}

}  // namespace quire
