// One function per head dimension, each in a translation unit of its own: they compile side by side.
#pragma once

#include "quant/cuda/launch.h"

namespace quire::cuda {

cudaError_t attend_dim32(const AttendArgs& args, bool prefill, cudaStream_t stream);
cudaError_t attend_dim64(const AttendArgs& args, bool prefill, cudaStream_t stream);
cudaError_t attend_dim96(const AttendArgs& args, bool prefill, cudaStream_t stream);
cudaError_t attend_dim128(const AttendArgs& args, bool prefill, cudaStream_t stream);
cudaError_t attend_dim160(const AttendArgs& args, bool prefill, cudaStream_t stream);
cudaError_t attend_dim192(const AttendArgs& args, bool prefill, cudaStream_t stream);
cudaError_t attend_dim224(const AttendArgs& args, bool prefill, cudaStream_t stream);
cudaError_t attend_dim256(const AttendArgs& args, bool prefill, cudaStream_t stream);

// Codecs whose values prefill tiles round anew (requantise.cuh).
constexpr bool is_requantised(const DeviceCodec& codec) {
  return codec.bits <= 4 &&
         (codec.family == CodecFamily::kUniform || codec.family == CodecFamily::kNonUniform);
}
// Many rows over pages of 64 tokens whose codecs are all but those of 8 bits and floats, head_dim 64 or 128;
// cudaErrorNotSupported for others.
cudaError_t attend_prefill_tiles(const AttendArgs& args, cudaStream_t stream);
// The same by the matrix instructions of compute capability 9.0, which others do not have.
cudaError_t attend_prefill_warpgroups(const AttendArgs& args, cudaStream_t stream);
// Whether the two take this call, scratch aside.
bool has_prefill_tiles(const AttendArgs& args);
// Whatever has no kernel among those: every codec, in either key space, at any head dimension.
cudaError_t attend_unfolded(const AttendArgs& args, cudaStream_t stream);

}  // namespace quire::cuda
