// Encoding of one side of sections, by family of codecs.
#pragma once

#include <type_traits>

#include "quant/cuda/launch.h"

namespace quire::cuda {

// Each writes codes, meta, param and sinks of one side; with the side of values comes the section's padding.
// cudaErrorNotSupported for codecs of other families and, but for those said to be for any shape, for shapes
// that they are not compiled for.
cudaError_t encode_rotated(const EncodeArgs& args, Side side, cudaStream_t stream);
cudaError_t encode_uniform(const EncodeArgs& args, Side side, cudaStream_t stream);  // and bf16
cudaError_t encode_tcq(const EncodeArgs& args, Side side, cudaStream_t stream);
cudaError_t encode_trellis(const EncodeArgs& args, Side side, cudaStream_t stream);  // any shape
cudaError_t encode_nuq_keys(const EncodeArgs& args, cudaStream_t stream);
cudaError_t encode_nuq_values(const EncodeArgs& args, cudaStream_t stream);
cudaError_t encode_nonuniform(const EncodeArgs& args, Side side, cudaStream_t stream);  // any shape
// Float, uniform and rotated codecs of any shape.
cudaError_t encode_plain(const EncodeArgs& args, Side side, cudaStream_t stream);

inline const DeviceCodec& codec_of(const EncodeArgs& args, Side side) {
  return side == Side::kKey ? args.format.key : args.format.value;
}

// body(width), with the width of a trellis codec's codes as a constant.
template <typename Body>
cudaError_t with_trellis_bits(uint32_t bits, Body body) {
  switch (bits) {
    case 4:
      return body(std::integral_constant<uint32_t, 4>{});
    case 3:
      return body(std::integral_constant<uint32_t, 3>{});
    case 2:
      return body(std::integral_constant<uint32_t, 2>{});
    default:
      return body(std::integral_constant<uint32_t, 1>{});
  }
}

}  // namespace quire::cuda
