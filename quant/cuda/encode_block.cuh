// What the encoders share in which a block folds one side of a section of any shape: values, planes of codes,
// exponent, mean, sinks. All arithmetic and its order are FORMATS.md's (built with --fmad=false). Blocks have
// a multiple of 32 threads; functions are called by all of them unless said otherwise.
#pragma once

#include "quant/cuda/encode_input.cuh"
#include "quant/cuda/mean_codes.cuh"
#include "quant/cuda/numbers.cuh"

namespace quire::cuda {

// What all steps share.
struct Job {
  DeviceCodec codec;
  bool is_key;
  SectionShape shape;
  uint32_t first;  // tokens below it are sinks
  uint8_t* codes;
  uint8_t* meta;
  InputRows rows;
  float* scratch;  // [32]
  float down;      // 2^-e

  __device__ __forceinline__ float scaled(uint32_t token, uint32_t channel) const {
    return __fmul_rn(rows(token, channel), down);
  }
  __device__ __forceinline__ uint32_t lanes() const { return is_key ? shape.tokens : shape.dim; }
  __device__ __forceinline__ uint32_t reductions() const { return is_key ? shape.dim : shape.tokens; }
};

__device__ __forceinline__ Job make_job(const EncodeArgs& args, bool is_key, uint8_t* section,
                                        float* scratch) {
  const SectionFormat& format = args.format;
  return {is_key ? format.key : format.value,
          is_key,
          format.shape,
          format.sink_tokens,
          section + (is_key ? format.layout.key_codes : format.layout.value_codes),
          section + (is_key ? format.layout.key_meta : format.layout.value_meta),
          input_rows(input_of(args, is_key)),
          scratch,
          1.0F};
}

// Some lanes of a code array.
struct Lanes {
  uint32_t first;
  uint32_t count;
};

// Writes a plane of fields: thread by thread whole words, neighbours to neighbours. code_at(r, lane).
template <uint32_t kWidth, typename CodeAt>
__device__ __forceinline__ void write_plane(const Job& job, uint8_t* plane, Lanes lanes, CodeAt code_at) {
  constexpr uint32_t kQuads = 8 / kWidth;
  const uint32_t words = job.reductions() / (4 * kQuads) * lanes.count;
  for (uint32_t w = threadIdx.x; w < words; w += blockDim.x) {
    const uint32_t lane = lanes.first + w % lanes.count;
    const uint32_t row = w / lanes.count;
    uint32_t word = 0;
    for (uint32_t i = 0; i < 4 * kQuads; ++i) {
      word |= code_at(row * 4 * kQuads + i, lane) << (i / 4 * kWidth + i % 4 * 8);
    }
    store_as<uint32_t>(plane + (size_t{row} * job.lanes() + lane) * 4, word);
  }
}

// Codes of these lanes to the planes of the codec.
template <typename CodeAt>
__device__ __forceinline__ void write_lanes(const Job& job, Lanes lanes, CodeAt code_at) {
  switch (job.codec.bits) {
    case 8:
      return write_plane<8>(job, job.codes, lanes, code_at);
    case 4:
      return write_plane<4>(job, job.codes, lanes, code_at);
    case 2:
      return write_plane<2>(job, job.codes, lanes, code_at);
    case 1:
      return write_plane<1>(job, job.codes, lanes, code_at);
    default:
      write_plane<2>(job, job.codes, lanes, [=](uint32_t r, uint32_t lane) { return code_at(r, lane) & 3U; });
      write_plane<1>(job, job.codes + size_t{job.shape.tokens} * job.shape.dim / 4, lanes,
                     [=](uint32_t r, uint32_t lane) { return code_at(r, lane) >> 2; });
  }
}

// All codes, 0 for sinks. code_at(token, channel).
template <typename CodeAt>
__device__ __forceinline__ void write_codes(const Job& job, CodeAt code_at) {
  const bool is_key = job.is_key;
  const uint32_t first = job.first;
  write_lanes(job, {0, job.lanes()}, [=](uint32_t r, uint32_t lane) {
    const uint32_t token = is_key ? lane : r;
    return token < first ? 0U : code_at(token, is_key ? r : lane);
  });
}

// Codes, scales and mean of a side that is nothing but sinks.
__device__ __forceinline__ void clear_side(const Job& job) {
  const uint32_t words = job.shape.tokens * job.shape.dim * job.codec.bits / 32;
  for (uint32_t w = threadIdx.x; w < words; w += blockDim.x)
    store_as<uint32_t>(job.codes + size_t{4} * w, 0U);
  for (uint32_t i = threadIdx.x; i < job.shape.tokens + job.shape.dim; i += blockDim.x) job.meta[i] = 0;
}

__device__ __forceinline__ int find_exponent(const Job& job) {
  float largest = 0.0F;
  const uint32_t values = (job.shape.tokens - job.first) * job.shape.dim;
  for (uint32_t i = threadIdx.x; i < values; i += blockDim.x) {
    largest = fmaxf(largest, fabsf(job.rows(job.first + i / job.shape.dim, i % job.shape.dim)));
  }
  return device_section_exponent(block_reduce(largest, job.scratch, MaxOf{}));
}

// Writes mean codes; mean: [dim] in shared memory, the means as a reader has them. Returns the step M.
__device__ __forceinline__ int encode_mean(const Job& job, float* mean) {
  const uint32_t valid = job.shape.tokens - job.first;
  float largest = 0.0F;
  for (uint32_t c = threadIdx.x; c < job.shape.dim; c += blockDim.x) {
    float sum = 0.0F;
    if (valid > 0) sum = job.scaled(job.first, c);
    for (uint32_t t = job.first + 1; t < job.shape.tokens; ++t) sum = __fadd_rn(sum, job.scaled(t, c));
    if (valid > 0) sum = __fmul_rn(sum, __fdiv_rn(1.0F, static_cast<float>(valid)));
    mean[c] = sum;
    largest = fmaxf(largest, fabsf(sum));
  }
  largest = block_reduce(largest, job.scratch, MaxOf{});
  return code_means(job.shape.dim, largest, mean, job.meta + job.shape.tokens);
}

// FORMATS.md's sum16 over the channels of one token: 16 lanes, each adds its own channels in order, then a
// tree. lane: 0 to 15.
template <typename Term>
__device__ __forceinline__ float sum16(uint32_t lane, uint32_t dim, Term term) {
  float sum = term(lane);
  for (uint32_t c = lane + 16; c < dim; c += 16) sum = __fadd_rn(sum, term(c));
  for (unsigned half = 8; half > 0; half /= 2) {
    sum = __fadd_rn(sum, __shfl_down_sync(kAllLanes, sum, half, 16));
  }
  return __shfl_sync(kAllLanes, sum, 0, 16);
}

// Sinks as bf16; after values the padding, too.
__device__ __forceinline__ void write_sinks_and_padding(const EncodeArgs& args, const Job& job,
                                                        uint8_t* section) {
  const SectionLayout& layout = args.format.layout;
  uint8_t* sinks = section + (job.is_key ? layout.sink_keys : layout.sink_values);
  const uint32_t values = args.format.sink_tokens * job.shape.dim;
  for (uint32_t i = threadIdx.x; i < values; i += blockDim.x) {
    const float value = job.rows(i / job.shape.dim, i % job.shape.dim);
    store_as<uint16_t>(sinks + size_t{2} * i, f32_to_bf16(value));
  }
  const uint32_t used = layout.sink_values + 2 * values;
  for (uint32_t i = used + threadIdx.x; !job.is_key && i < layout.bytes; i += blockDim.x) section[i] = 0;
}

}  // namespace quire::cuda
