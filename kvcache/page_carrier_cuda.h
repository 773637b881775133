// How pages in host memory come up to a GPU to be attended: slots of host memory that it reads, and frames of
// its own that hold a wave's pages. One launch copies all of a wave's pages at the speed of the link.
//
// Invariants: everything of fixed size is allocated by open; frames are taken from what device_budget has
// left beside a step's pages, a small share, or are none. Where the system pins no more memory, slots are
// memory as ever and nothing is carried from then on. Thread safety: functions of host_memory() from any
// thread that the caller orders; the rest from the compute stream alone.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <set>

#include "kvcache/charge.h"
#include "kvcache/page_device.h"
#include "quant/cuda/launch.h"

namespace quire {

class PinnedMemory final : public SlotMemory {
 public:
  explicit PinnedMemory(int device_index) : index_(device_index) {}
  uint8_t* map(size_t bytes) override;
  void unmap(uint8_t* data, size_t bytes) override;
  // Of memory that is somebody else's.
  void pin(std::span<uint8_t> memory);
  void unpin(std::span<uint8_t> memory);
  // All that there ever was.
  bool all_pinned() const { return !refused_; }

 private:
  const int index_;
  std::atomic<bool> refused_{false};
  std::set<uint8_t*> plain_;  // what map gave and is not pinned
};

class CudaPageCarrier {
 public:
  explicit CudaPageCarrier(int device_index) : host_memory_(device_index) {}

  // stride: of frames, at least the largest page's bytes. copies: [setup.wave_pages], pinned. Both budgets
  // have been charged for everything else.
  Status open(Device& device, const PageDeviceSetup& setup, size_t stride, cuda::PageCopy* copies);
  PinnedMemory& host_memory() { return host_memory_; }
  uint32_t room() const { return host_memory_.all_pinned() ? frame_count_ : 0; }
  CarriedFrames frames() const { return {frames_, stride_}; }
  // As PageDevice::carry, for pages of any pinned memory. `copies` is in use until the stream has run.
  cudaError_t carry(std::span<const CarriedPage> pages, cudaStream_t stream);

 private:
  PinnedMemory host_memory_;
  Charge charge_;
  DeviceBuffer buffer_;
  cuda::PageCopy* copies_ = nullptr;            // on the host
  cuda::PageCopy* copies_on_device_ = nullptr;  // [frame_count_]
  uint8_t* frames_ = nullptr;                   // [frame_count_][stride_]
  size_t stride_ = 0;
  uint32_t frame_count_ = 0;
};

}  // namespace quire
