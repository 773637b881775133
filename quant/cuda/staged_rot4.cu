#include "quant/cuda/staged_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_rot4(const AttendArgs& args, cudaStream_t stream) {
  return attend_pair<CodecId::kRot4, CodecId::kRot4>(args, stream);
}

}  // namespace quire::cuda
