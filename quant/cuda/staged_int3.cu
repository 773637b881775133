#include "quant/cuda/staged_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_int3(const AttendArgs& args, cudaStream_t stream) {
  return attend_pair<CodecId::kInt3, CodecId::kInt3>(args, stream);
}

}  // namespace quire::cuda
