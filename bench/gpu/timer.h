// Times of work in a stream, by the device's own events. Thread safety: none.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>

namespace quire::gpu {

struct Time {
  double ms;      // of one call: the median over batches
  double spread;  // (third quartile - first quartile) / median
};

// enqueue(i) puts call i into the stream. Calls are timed in batches that last a millisecond or longer, so
// that what a launch costs the host does not count; one batch goes before, unmeasured. Ends the program when
// a call fails.
Time time_calls(cudaStream_t stream, uint32_t batches, const std::function<cudaError_t(uint32_t)>& enqueue);

}  // namespace quire::gpu
