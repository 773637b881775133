// What the CUDA runtime answered, as a Status. Included by the CUDA units of this folder alone. Thread
// safety: reads and clears the calling thread's last error.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "kvcache/status.h"

namespace quire {

// `what` begins the sentence: "allocating 64 bytes". Errors that leave the device unusable are kDeviceLost.
Status cuda_status(cudaError_t error, const std::string& what);

}  // namespace quire
