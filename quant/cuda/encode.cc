// Which encoder a side gets.
#include "quant/cuda/encode_sides.h"

namespace quire::cuda {
namespace {

cudaError_t or_plain(cudaError_t error, const EncodeArgs& args, Side side, cudaStream_t stream) {
  return error != cudaErrorNotSupported ? error : encode_plain(args, side, stream);
}

cudaError_t encode_nuq(const EncodeArgs& args, Side side, cudaStream_t stream) {
  const cudaError_t error =
      side == Side::kKey ? encode_nuq_keys(args, stream) : encode_nuq_values(args, stream);
  return error != cudaErrorNotSupported ? error : encode_nonuniform(args, side, stream);
}

cudaError_t encode_chains(const EncodeArgs& args, Side side, cudaStream_t stream) {
  const cudaError_t error = encode_tcq(args, side, stream);
  return error != cudaErrorNotSupported ? error : encode_trellis(args, side, stream);
}

cudaError_t encode_side(const EncodeArgs& args, Side side, cudaStream_t stream) {
  switch (codec_of(args, side).family) {
    case CodecFamily::kTrellis:
      return encode_chains(args, side, stream);
    case CodecFamily::kNonUniform:
      return encode_nuq(args, side, stream);
    case CodecFamily::kRotated:
      return or_plain(encode_rotated(args, side, stream), args, side, stream);
    default:
      return or_plain(encode_uniform(args, side, stream), args, side, stream);
  }
}

// Whether these are values in the codec's space one after another.
bool is_dense(const EncodeInput& input, SectionShape shape) {
  const uint64_t section = uint64_t{shape.tokens} * shape.dim;
  return input.type == InputType::kF32 && !input.rotate && input.token_stride == shape.dim &&
         input.page_stride == input.heads * section && (input.heads == 1 || input.head_stride == section);
}
bool can_rotate(const EncodeArgs& args, Side side) {
  const bool in_space = find_codec(codec_of(args, side).id)->space == CodecSpace::kRotated;
  return in_space && rotates_input(args.format.shape);
}
bool takes_inputs(const EncodeArgs& args) {
  return (!args.keys.rotate || can_rotate(args, Side::kKey)) &&
         (!args.values.rotate || can_rotate(args, Side::kValue)) &&
         (args.digests == nullptr || is_dense(args.keys, args.format.shape));
}

}  // namespace

bool rotates_input(SectionShape shape) { return shape.tokens <= 64 && (shape.dim == 64 || shape.dim == 128); }

cudaError_t encode_sections(const EncodeArgs& args, cudaStream_t stream) {
  if (!has_kernels(args.format) || !takes_inputs(args)) return cudaErrorNotSupported;
  if (args.count == 0) return cudaSuccess;
  const cudaError_t keys = encode_side(args, Side::kKey, stream);
  if (keys != cudaSuccess) return keys;
  if (args.digests != nullptr) {
    // Right behind the keys' encoder: of a thousand sections or fewer they are in the L2 cache still.
    const auto* dense = static_cast<const float*>(args.keys.data);
    const cudaError_t digests = make_digests({args.format.shape, dense, args.digests, args.count}, stream);
    if (digests != cudaSuccess) return digests;
  }
  return encode_side(args, Side::kValue, stream);
}

}  // namespace quire::cuda
