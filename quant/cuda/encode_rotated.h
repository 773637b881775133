// Encoding of one side by a rotated codec, for the head dimensions that it is compiled for.
#pragma once

#include "quant/cuda/launch.h"

namespace quire::cuda {

// cudaErrorNotSupported for other codecs and head dimensions. With the side of values comes the section's
// padding.
cudaError_t encode_rotated(const EncodeArgs& args, Side side, cudaStream_t stream);

}  // namespace quire::cuda
