#include "quant/cuda/staged_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_tcq4(const AttendArgs& args, cudaStream_t stream) {
  return attend_pair<CodecId::kTcq4, CodecId::kTcq4>(args, stream);
}

}  // namespace quire::cuda
