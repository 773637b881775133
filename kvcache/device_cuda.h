// An NVIDIA GPU as a device: memory from its stream-ordered pool, streams, events, copies.
//
// Errors that leave the GPU unusable (a kernel that failed, a lost bus) come back as kDeviceLost from every
// call after them; nothing aborts. Work given to `launch` runs on a thread of the driver, in the stream's
// order, and must not call the driver itself. The other rules are device.h's. Built against the CUDA runtime
// or, in tests, the emulator of it (tests/emu).
#pragma once

#include <memory>

#include "kvcache/device.h"

namespace quire {

struct CudaDeviceOptions {
  int index = 0;  // as CUDA counts them
};

// kUnsupported when there is no such GPU or no driver.
Result<std::unique_ptr<Device>> create_cuda_device(const CudaDeviceOptions& options = {});

// A stream that the engine has made (a cudaStream_t of this device): Quire's work in it is ordered with the
// engine's. It is not destroyed with the returned Stream, which must not outlive it.
Result<std::unique_ptr<Stream>> adopt_cuda_stream(Device& device, void* stream);

// Lets this device's kernels read the other's memory. kUnsupported where no link allows it. A cache is on one
// device, so nothing in the library calls this: it is for who joins several, and tests alone reach it.
Status enable_cuda_peer(Device& device, int peer_index);

}  // namespace quire
