#include "quant/cuda/staged_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_tcq3(const AttendArgs& args, cudaStream_t stream) {
  return attend_pair<CodecId::kTcq3, CodecId::kTcq3>(args, stream);
}

}  // namespace quire::cuda
