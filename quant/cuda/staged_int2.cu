#include "quant/cuda/staged_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_int2(const AttendArgs& args, cudaStream_t stream) {
  return attend_pair<CodecId::kInt2, CodecId::kInt2>(args, stream);
}

}  // namespace quire::cuda
