#include "quant/cuda/staged_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_rot2(const AttendArgs& args, cudaStream_t stream) {
  return attend_pair<CodecId::kRot2, CodecId::kRot2>(args, stream);
}

}  // namespace quire::cuda
