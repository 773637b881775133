// What this build knows of CUDA: the one place where the library meets it. cuda.cc is linked where QUIRE_CUDA
// is ON, cuda_absent.cc elsewhere, and tests link cuda.cc over the emulator. Thread safety: any thread.
#pragma once

#include <cstdint>

#include "kvcache/page_device.h"

namespace quire {

// 0 without a driver, without a GPU, or in a build without CUDA.
uint32_t count_cuda_devices();

// Opens device `index`. kUnsupported, with one sentence, in a build without CUDA; whether there is such a
// device is told when it is opened.
Result<PageDeviceFactory> cuda_page_device_factory(uint32_t index);

}  // namespace quire
