// Which attention kernel a call gets.
#include "quant/cuda/attend_dims.h"

namespace quire::cuda {
namespace {

cudaError_t attend_any(const AttendArgs& args, bool prefill, cudaStream_t stream) {
  if (!has_kernels(args.format)) return cudaErrorNotSupported;
  switch (args.format.shape.dim) {
    case 32:
      return attend_dim32(args, prefill, stream);
    case 64:
      return attend_dim64(args, prefill, stream);
    case 96:
      return attend_dim96(args, prefill, stream);
    case 128:
      return attend_dim128(args, prefill, stream);
    case 160:
      return attend_dim160(args, prefill, stream);
    case 192:
      return attend_dim192(args, prefill, stream);
    case 224:
      return attend_dim224(args, prefill, stream);
    case 256:
      return attend_dim256(args, prefill, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t attend_decode(const AttendArgs& args, cudaStream_t stream) {
  return attend_any(args, false, stream);
}
cudaError_t attend_prefill(const AttendArgs& args, cudaStream_t stream) {
  return attend_any(args, true, stream);
}

}  // namespace quire::cuda
