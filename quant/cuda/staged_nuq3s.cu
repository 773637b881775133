#include "quant/cuda/staged_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_nuq3s(const AttendArgs& args, cudaStream_t stream) {
  return attend_pair<CodecId::kNuq3s, CodecId::kNuq3s>(args, stream);
}

}  // namespace quire::cuda
