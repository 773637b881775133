#include "quant/cuda/attend_dims.h"
#include "quant/cuda/attend_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_dim128(const AttendArgs& args, bool prefill, cudaStream_t stream) {
  return attend<4>(args, prefill, stream);
}

}  // namespace quire::cuda
