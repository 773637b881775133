#include "quant/cuda/staged_kernel.cuh"

namespace quire::cuda {

cudaError_t attend_tcq2(const AttendArgs& args, cudaStream_t stream) {
  return attend_pair<CodecId::kTcq2, CodecId::kTcq2>(args, stream);
}

}  // namespace quire::cuda
