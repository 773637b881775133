// An NVIDIA GPU that folds and attends pages: the kernels of quant/cuda over slots of its memory.
//
// Takes pages of every codec, in both key spaces. Built against the CUDA runtime or, in tests, the
// emulator of it (tests/emu). Errors and thread safety: as page_device.h has them.
#pragma once

#include "kvcache/device_cuda.h"
#include "kvcache/page_device.h"

namespace quire {

// kUnsupported when there is no such GPU, or it cannot take such pages; kOverBudget when a budget has no room
// for its work space.
Result<std::unique_ptr<PageDevice>> create_cuda_page_device(const PageDeviceSetup& setup,
                                                            const CudaDeviceOptions& options = {});

}  // namespace quire
