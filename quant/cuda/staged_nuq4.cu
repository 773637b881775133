#include "quant/cuda/staged_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_nuq4(const AttendArgs& args, cudaStream_t stream) {
  return attend_pair<CodecId::kNuq4, CodecId::kNuq4>(args, stream);
}

}  // namespace quire::cuda
