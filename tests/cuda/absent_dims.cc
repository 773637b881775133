// Stands for the head dimensions and pairs of codecs that builds with sanitizers, and of mutants, leave out.
#include "quant/cuda/attend_dims.h"
#include "quant/cuda/attend_staged.h"

namespace quire::cuda {

cudaError_t attend_dim32(const AttendArgs&, bool, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_dim96(const AttendArgs&, bool, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_dim128(const AttendArgs&, bool, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_dim160(const AttendArgs&, bool, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_dim192(const AttendArgs&, bool, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_dim224(const AttendArgs&, bool, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_dim256(const AttendArgs&, bool, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_rot3(const AttendArgs&, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_rot2(const AttendArgs&, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_rot3_rot2(const AttendArgs&, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_tcq4(const AttendArgs&, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_tcq3(const AttendArgs&, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_tcq2(const AttendArgs&, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_tcq3_tcq2(const AttendArgs&, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_int8(const AttendArgs&, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_int3(const AttendArgs&, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_int2(const AttendArgs&, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_nuq3(const AttendArgs&, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_nuq2(const AttendArgs&, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_nuq4s(const AttendArgs&, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t attend_nuq2s(const AttendArgs&, cudaStream_t) { return cudaErrorNotSupported; }

}  // namespace quire::cuda
