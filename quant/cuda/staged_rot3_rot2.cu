#include "quant/cuda/staged_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_rot3_rot2(const AttendArgs& args, cudaStream_t stream) {
  return attend_pair<CodecId::kRot3, CodecId::kRot2>(args, stream);
}

}  // namespace quire::cuda
