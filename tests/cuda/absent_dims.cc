// Stands for the head dimensions that builds with sanitizers, and of mutants, leave out.
#include "quant/cuda/attend_dims.h"

namespace quire::cuda {

cudaError_t attend_dim32(const AttendArgs&, bool, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_dim96(const AttendArgs&, bool, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_dim128(const AttendArgs&, bool, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_dim160(const AttendArgs&, bool, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_dim192(const AttendArgs&, bool, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_dim224(const AttendArgs&, bool, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_dim256(const AttendArgs&, bool, cudaStream_t) { return cudaErrorNotSupported; }

}  // namespace quire::cuda
