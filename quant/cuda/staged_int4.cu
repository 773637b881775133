#include "quant/cuda/staged_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_int4(const AttendArgs& args, cudaStream_t stream) {
  return attend_pair<CodecId::kInt4, CodecId::kInt4>(args, stream);
}

}  // namespace quire::cuda
