#include "quant/cuda/staged_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_nuq4s(const AttendArgs& args, cudaStream_t stream) {
  return attend_pair<CodecId::kNuq4s, CodecId::kNuq4s>(args, stream);
}

}  // namespace quire::cuda
