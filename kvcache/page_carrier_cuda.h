// How pages in host memory come up to a GPU to be attended: slots of host memory that it reads, and frames of
// its own that hold a wave's pages. One launch copies all of a wave's pages at the speed of the link. There
// are two sets of frames and a stream for copies, so that a wave's pages come up while those of the wave
// before are attended:
//
//     copies:   | wave 0, set 0 | wave 1, set 1 | wave 2, set 0 ..   a set is written when its reads are over
//     reader:                   | attend wave 0 | attend wave 1 ..   a set is read when it has been written
//
// Invariants: everything of fixed size is allocated by open; frames are taken from what device_budget has
// left beside a step's pages, a small share, or are none. Where the system pins no more memory, nothing is
// carried from then on. Thread safety: host_memory() has its own; the rest from the compute stream alone.
#pragma once

#include <cuda_runtime_api.h>

#include "kvcache/charge.h"
#include "kvcache/cuda_queue.h"
#include "kvcache/page_device.h"
#include "kvcache/pinned_memory_cuda.h"
#include "quant/cuda/launch.h"

namespace quire {

class CudaPageCarrier {
 public:
  static constexpr uint32_t kSets = 2;

  explicit CudaPageCarrier(int device_index) : host_memory_(device_index), queue_(device_index) {}

  // stride: of frames, at least the largest page's bytes. copies: [kSets][setup.wave_pages], pinned. Both
  // budgets have been charged for everything else.
  Status open(Device& device, const PageDeviceSetup& setup, size_t stride, cuda::PageCopy* copies);
  PinnedMemory& host_memory() { return host_memory_; }
  uint32_t room() const { return host_memory_.all_pinned() ? frame_count_ : 0; }
  // As PageDevice::carry, for pages of any pinned memory. reader: the stream that frames are read by.
  Result<CarriedFrames> carry(std::span<const CarriedPage> pages, cudaStream_t reader);

 private:
  // The pages of one wave.
  struct FrameSet {
    cuda::PageCopy* copies = nullptr;            // on the host, in use until they are copied
    cuda::PageCopy* copies_on_device = nullptr;  // [frame_count_]
    uint8_t* frames = nullptr;                   // [frame_count_][stride_]
    CudaEvent copied;
    CudaEvent read;
  };
  void copy(std::span<const CarriedPage> pages, FrameSet& set);

  PinnedMemory host_memory_;
  Charge charge_;
  DeviceBuffer buffer_;
  FrameSet sets_[kSets];
  uint32_t next_ = 0;  // set
  CudaQueue queue_;    // last: its work uses the rest
  size_t stride_ = 0;
  uint32_t frame_count_ = 0;
};

}  // namespace quire
