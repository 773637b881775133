#include "quant/cuda/staged_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_nuq2(const AttendArgs& args, cudaStream_t stream) {
  return attend_pair<CodecId::kNuq2, CodecId::kNuq2>(args, stream);
}

}  // namespace quire::cuda
