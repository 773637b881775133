// Which attention kernel a call gets.
#include <array>

#include "quant/cuda/attend_dims.h"
#include "quant/cuda/attend_staged.h"

namespace quire::cuda {
namespace {

struct StagedPair {
  CodecId key;
  CodecId value;
  cudaError_t (*attend)(const AttendArgs& args, cudaStream_t stream);
};
constexpr std::array kStagedPairs{
    StagedPair{CodecId::kRot4, CodecId::kRot4, attend_rot4},
    StagedPair{CodecId::kRot3, CodecId::kRot3, attend_rot3},
    StagedPair{CodecId::kRot2, CodecId::kRot2, attend_rot2},
    StagedPair{CodecId::kRot3, CodecId::kRot2, attend_rot3_rot2},
    StagedPair{CodecId::kTcq4, CodecId::kTcq4, attend_tcq4},
    StagedPair{CodecId::kTcq3, CodecId::kTcq3, attend_tcq3},
    StagedPair{CodecId::kTcq2, CodecId::kTcq2, attend_tcq2},
    StagedPair{CodecId::kTcq3, CodecId::kTcq2, attend_tcq3_tcq2},
    StagedPair{CodecId::kInt8, CodecId::kInt8, attend_int8},
    StagedPair{CodecId::kInt4, CodecId::kInt4, attend_int4},
    StagedPair{CodecId::kInt3, CodecId::kInt3, attend_int3},
    StagedPair{CodecId::kInt2, CodecId::kInt2, attend_int2},
    StagedPair{CodecId::kNuq4, CodecId::kNuq4, attend_nuq4},
    StagedPair{CodecId::kNuq3, CodecId::kNuq3, attend_nuq3},
    StagedPair{CodecId::kNuq2, CodecId::kNuq2, attend_nuq2},
    StagedPair{CodecId::kNuq4s, CodecId::kNuq4s, attend_nuq4s},
    StagedPair{CodecId::kNuq3s, CodecId::kNuq3s, attend_nuq3s},
    StagedPair{CodecId::kNuq2s, CodecId::kNuq2s, attend_nuq2s},
};
constexpr uint32_t kStagedTokens = 64;

// cudaErrorNotSupported where no kernel was made for exactly this.
cudaError_t attend_staged(const AttendArgs& args, cudaStream_t stream) {
  if (args.format.shape.tokens != kStagedTokens || args.rotation.rotary_dim > 0) return cudaErrorNotSupported;
  if (args.section_count == 0 || args.rows == 0) return cudaSuccess;
  for (const StagedPair& pair : kStagedPairs) {
    if (pair.key == args.format.key.id && pair.value == args.format.value.id)
      return pair.attend(args, stream);
  }
  return cudaErrorNotSupported;
}

// Families that the kernels over codes themselves know.
bool multiplies_codes(const DeviceCodec& codec) {
  return codec.family == CodecFamily::kFloat || codec.family == CodecFamily::kUniform ||
         codec.family == CodecFamily::kRotated;
}

cudaError_t attend_any(const AttendArgs& args, bool prefill, cudaStream_t stream) {
  if (!has_kernels(args.format)) return cudaErrorNotSupported;
  if (args.rotation.rotary_dim > 0 || !multiplies_codes(args.format.key) ||
      !multiplies_codes(args.format.value)) {
    return attend_unfolded(args, stream);
  }
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

// Codecs that tiles of bytes are exact enough for.
bool fits_bytes(const DeviceCodec& codec) {
  return codec.family == CodecFamily::kRotated || codec.family == CodecFamily::kTrellis ||
         is_requantised(codec);
}

// Hopper alone has them: neither older nor newer architectures do.
bool has_warpgroup_products() {
  constexpr int kHopper = 9;
  int device = 0;
  int major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         major == kHopper;
}

}  // namespace

bool has_prefill_tiles(const AttendArgs& args) {
  constexpr uint32_t kTileTokens = 64;
  const SectionFormat& format = args.format;
  return format.shape.tokens == kTileTokens && (format.shape.dim == 64 || format.shape.dim == 128) &&
         args.rotation.rotary_dim == 0 && fits_bytes(format.key) && fits_bytes(format.value);
}

cudaError_t attend_decode(const AttendArgs& args, cudaStream_t stream) {
  const cudaError_t staged = attend_staged(args, stream);
  return staged != cudaErrorNotSupported ? staged : attend_any(args, false, stream);
}
cudaError_t attend_prefill(const AttendArgs& args, cudaStream_t stream) {
  const cudaError_t tiles =
      has_warpgroup_products() ? attend_prefill_warpgroups(args, stream) : attend_prefill_tiles(args, stream);
  if (tiles != cudaErrorNotSupported) return tiles;
  // What reading the sections once per sixteen rows costs is less than what a kernel of their own gains.
  const cudaError_t staged = attend_staged(args, stream);
  return staged != cudaErrorNotSupported ? staged : attend_any(args, true, stream);
}

}  // namespace quire::cuda
