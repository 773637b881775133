// Encoding of keys in non-uniform codecs with a channel per thread (key_channels.cuh): its range, its scale
// and midpoint and its codes are the thread's alone. Only outliers, one of each token, are searched across
// channels. All arithmetic and its order are FORMATS.md's (built with --fmad=false).
#include "quant/cuda/encode_sides.h"
#include "quant/cuda/key_channels.cuh"
#include "quant/cuda/nuq_outliers.cuh"

namespace quire::cuda {
namespace {

using key_channels::Tokens;

// What kernels want to know of a codec.
struct Codec {
  uint32_t bits;
  bool outliers;
};

// Shared memory of a block.
struct Workplace {
  float* scratch;  // [32]
  NuqSearch* search;
  // With outliers:
  float4* groups;      // [dim]
  uint32_t* left_out;  // [dim][words of tokens]
  float* distances;    // KeyDistances
};

struct Section {
  SectionShape shape;
  uint32_t first;  // tokens below it are sinks
  InputRows keys;
  uint8_t* bytes;
  uint8_t* codes;
  uint8_t* meta;
};

__device__ __forceinline__ Section section_of_block(const EncodeArgs& args) {
  const SectionShape shape = args.format.shape;
  const SectionLayout& layout = args.format.layout;
  uint8_t* bytes = args.sections[blockIdx.x];
  return {shape, args.format.sink_tokens,  input_rows(args.keys),
          bytes, bytes + layout.key_codes, bytes + layout.key_meta};
}

template <uint32_t kDim>
__device__ __forceinline__ void write_sinks(const EncodeArgs& args, const Section& section) {
  uint8_t* sinks = section.bytes + args.format.layout.sink_keys;
  for (uint32_t i = threadIdx.x; i < section.first * kDim; i += kDim) {
    store_as<uint16_t>(sinks + size_t{2} * i, f32_to_bf16(section.keys(i / kDim, i % kDim)));
  }
}

template <int kQuads>
__device__ __forceinline__ LeftOut<kQuads> sinks_left_out(uint32_t first) {
  LeftOut<kQuads> left_out;
#pragma unroll
  for (uint32_t w = 0; w < std::size(left_out.bits); ++w) {
    const uint32_t below = first - min(first, 32 * w);
    left_out.bits[w] = below >= 32 ? 0xFFFFFFFFU : (1U << below) - 1;
  }
  return left_out;
}

// The outlier of the thread's token, the same in all threads that share one; adds those of its channel to
// left_out. There is a valid token.
template <uint32_t kDim, int kQuads>
__device__ __forceinline__ uint32_t find_outliers(const Section& section, const Workplace& place,
                                                  Tokens<kQuads>& tokens, LeftOut<kQuads>& left_out) {
  constexpr uint32_t kTokens = 4 * kQuads;
  constexpr uint32_t kWords = std::size(LeftOut<kQuads>{}.bits);
  using Distances = KeyDistances<kDim, kTokens>;
  const float share = __fdiv_rn(1.0F, static_cast<float>(kTokens - section.first));
  const float mean = mean_of<true>(tokens, share);
  key_channels::replace_sinks(section.first, mean, tokens);  // they add nothing to squares
  GroupSpread spread = spread_of<true>(tokens, mean, share);
  spread.mean = made_anew(mean);
  uint32_t* mine = place.left_out + threadIdx.x * kWords;
#pragma unroll
  for (uint32_t w = 0; w < kWords; ++w) mine[w] = 0;
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      place.distances[(4 * q + j) * Distances::kStride + threadIdx.x] = spread.distance(tokens.x[q][j]);
    }
  }
  __syncthreads();
  const uint32_t token = threadIdx.x / Distances::kParts;
  uint32_t group = Distances::farthest(place.distances).group;
  if (token < section.first) group = kNoGroup;
  if (group != kNoGroup && threadIdx.x % Distances::kParts == 0) {
    atomicOr(place.left_out + group * kWords + token / 32, 1U << (token % 32));
  }
  __syncthreads();
#pragma unroll
  for (uint32_t w = 0; w < kWords; ++w) left_out.bits[w] |= mine[w];
  return group;
}

// The outlier of the thread's token as stored.
template <uint32_t kDim, int kQuads>
__device__ __forceinline__ void write_outliers(const Section& section, const Workplace& place, float down,
                                               uint32_t group) {
  constexpr uint32_t kParts = KeyDistances<kDim, 4 * kQuads>::kParts;
  const uint32_t token = threadIdx.x / kParts;
  __syncthreads();
  if (threadIdx.x % kParts != 0) return;
  uint32_t stored = 0;
  if (group != kNoGroup) {
    const float value = __fmul_rn(section.keys(token, group), down);
    stored = fold_outlier(group, value, place.groups, *place.search);
  }
  store_as<uint16_t>(section.meta + 4 * kDim + size_t{2} * token, static_cast<uint16_t>(stored));
}

template <uint32_t kDim>
__device__ __forceinline__ void write_group(const Section& section, const NuqGroup& group) {
  store_as<uint16_t>(section.meta + size_t{2} * threadIdx.x, static_cast<uint16_t>(group.scale_bits));
  store_as<uint16_t>(section.meta + size_t{2} * (kDim + threadIdx.x), static_cast<uint16_t>(group.mid_bits));
}

// No sinks, no outliers: a channel's range is that of all its tokens, and gives the largest magnitude, too.
template <uint32_t kDim, int kQuads>
__device__ __forceinline__ int fold_plain(const Section& section, const Workplace& place,
                                          const Tokens<kQuads>& tokens, registers::Codes<kQuads>& codes) {
  const GroupRange range = range_of<true>(tokens, NoneLeftOut{});
  const int exponent = device_section_exponent(block_max(fmaxf(range.high, -range.low), place.scratch));
  const float down = power_of_two(-exponent);
  const NuqGroup ranged = nuq_ranged(__fmul_rn(range.low, down), __fmul_rn(range.high, down));
  const NuqSums sums =
      fold_members<true>(tokens, down, NoneLeftOut{}, GroupUnits(ranged), *place.search, codes);
  write_group<kDim>(section, nuq_fitted(sums, ranged));
  return exponent;
}

template <uint32_t kDim, int kQuads>
__device__ __forceinline__ int fold_with_left_out(const Section& section, const Workplace& place,
                                                  bool outliers, Tokens<kQuads>& tokens,
                                                  registers::Codes<kQuads>& codes) {
  const int exponent = device_section_exponent(block_max(key_channels::largest_of(tokens), place.scratch));
  const float down = power_of_two(-exponent);
  key_channels::scale(tokens, down);
  const bool any = section.first < section.shape.tokens;
  const LeftOut<kQuads> sinks = sinks_left_out<kQuads>(section.first);
  LeftOut<kQuads> left_out = sinks;
  uint32_t outlier = kNoGroup;
  if (outliers && any) outlier = find_outliers<kDim>(section, place, tokens, left_out);

  GroupRange range = range_of<true>(tokens, left_out);
  if (range.low > range.high) range = range_of<true>(tokens, sinks);  // nothing but outliers
  const NuqGroup ranged = nuq_ranged(range.low, range.high);
  const GroupUnits units(ranged);
  const NuqSums sums = fold_members<true>(tokens, 1.0F, left_out.anew(), units, *place.search, codes);
  const NuqGroup fitted = any ? nuq_fitted(sums, ranged) : NuqGroup{0, 0};
  write_group<kDim>(section, fitted);
  if (outliers) {
    store_group(place.groups + threadIdx.x, units, fitted);
    write_outliers<kDim, kQuads>(section, place, down, outlier);
  }
#pragma unroll
  for (int q = 0; section.first > 0 && q < kQuads; ++q) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (static_cast<uint32_t>(4 * q + j) < section.first) codes.quad[q] &= ~(0xFFU << (8 * j));
    }
  }
  return exponent;
}

// kLeaveOut: sinks, or outliers.
template <uint32_t kDim, uint32_t kTokens, bool kLeaveOut>
__global__ void __launch_bounds__(kDim, 512 / kDim)
    encode_nuq_keys_kernel(const __grid_constant__ EncodeArgs args, Codec codec) {
  constexpr int kQuads = kTokens / 4;
  const Section section = section_of_block(args);
  Tokens<kQuads> tokens;
  key_channels::load_tokens<kDim>(section.keys, tokens);
  Smem shared;
  Workplace place{};
  place.scratch = shared.take<float>(32);
  place.search = shared.take<NuqSearch>(1);
  place.search->fill(args.format, Side::kKey);
  registers::Codes<kQuads> codes;
  int exponent = 0;
  if constexpr (kLeaveOut) {
    if (codec.outliers) {
      place.groups = shared.take<float4>(kDim);
      place.left_out = shared.take<uint32_t>(kDim * ((kTokens + 31) / 32));
      place.distances = shared.take<float>(KeyDistances<kDim, kTokens>::kFloats);
    }
    write_sinks<kDim>(args, section);
    key_channels::replace_sinks(section.first, 0.0F, tokens);
    exponent = fold_with_left_out<kDim>(section, place, codec.outliers, tokens, codes);
  } else {
    exponent = fold_plain<kDim>(section, place, tokens, codes);
  }
  key_channels::write_codes<kDim>(codec.bits, section.codes, codes);
  if (threadIdx.x == 0) args.params[2 * blockIdx.x] = static_cast<uint32_t>(exponent);
}

template <uint32_t kDim, uint32_t kTokens>
cudaError_t launch_shape(const EncodeArgs& args, cudaStream_t stream) {
  const CodecInfo& info = *find_codec(args.format.key.id);
  size_t bytes = 32 * sizeof(float) + sizeof(NuqSearch) + 15;
  if (info.outliers) {
    bytes += kDim * (sizeof(float4) + (kTokens + 31) / 32 * sizeof(uint32_t)) +
             KeyDistances<kDim, kTokens>::kFloats * sizeof(float);
  }
  const bool leave_out = info.outliers || args.format.sink_tokens > 0;
  return launch(
      {args.count, kDim, bytes, stream},
      leave_out ? encode_nuq_keys_kernel<kDim, kTokens, true> : encode_nuq_keys_kernel<kDim, kTokens, false>,
      args, Codec{info.bits, info.outliers});
}

}  // namespace

cudaError_t encode_nuq_keys(const EncodeArgs& args, cudaStream_t stream) {
  const SectionShape shape = args.format.shape;
  if (shape.dim == 128 && shape.tokens == 64) return launch_shape<128, 64>(args, stream);
  if (shape.dim == 128 && shape.tokens == 32) return launch_shape<128, 32>(args, stream);
  if (shape.dim == 64 && shape.tokens == 64) return launch_shape<64, 64>(args, stream);
  if (shape.dim == 64 && shape.tokens == 32) return launch_shape<64, 32>(args, stream);
  return cudaErrorNotSupported;
}

}  // namespace quire::cuda
