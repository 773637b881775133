#include "quant/cuda/staged_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_nuq3(const AttendArgs& args, cudaStream_t stream) {
  return attend_pair<CodecId::kNuq3, CodecId::kNuq3>(args, stream);
}

}  // namespace quire::cuda
