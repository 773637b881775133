// Decode attention of the pairs of codecs that have kernels of their own, over pages of 64 tokens.
#pragma once

#include "quant/cuda/launch.h"

namespace quire::cuda {

// One function per pair, each in a translation unit of its own: they compile side by side.
// cudaErrorNotSupported for head dimensions without such a kernel.
cudaError_t attend_rot4(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_rot3(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_rot2(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_rot3_rot2(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_tcq4(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_tcq3(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_tcq2(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_tcq3_tcq2(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_int8(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_int4(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_int3(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_int2(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_nuq4(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_nuq3(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_nuq2(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_nuq4s(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_nuq3s(const AttendArgs& args, cudaStream_t stream);
cudaError_t attend_nuq2s(const AttendArgs& args, cudaStream_t stream);

}  // namespace quire::cuda
