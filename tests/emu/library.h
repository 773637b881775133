// For what stands in for a library of the toolkit's, such as cuBLAS: its work runs on the host, in a stream's
// order. Thread safety: as cudaLaunchHostFunc.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace emu {

// Device memory is in the work's reach. Returns a cudaError_t.
int run_library_work(cudaStream_t stream, std::function<void()> work);

}  // namespace emu
