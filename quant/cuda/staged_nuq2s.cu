#include "quant/cuda/staged_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_nuq2s(const AttendArgs& args, cudaStream_t stream) {
  return attend_pair<CodecId::kNuq2s, CodecId::kNuq2s>(args, stream);
}

}  // namespace quire::cuda
