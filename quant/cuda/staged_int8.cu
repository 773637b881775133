#include "quant/cuda/staged_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_int8(const AttendArgs& args, cudaStream_t stream) {
  return attend_pair<CodecId::kInt8, CodecId::kInt8>(args, stream);
}

}  // namespace quire::cuda
