// Prefill attention over rotated and trellis codecs in pages of 64 tokens: 128 rows a block, sixteen a warp.
//
// A section is copied to shared memory two ahead, unpacked there one ahead by all warps (prefill_unpack.cuh),
// and multiplied by each with its own rows. Queries have 16 bits, so two instructions give a score; weights
// have 8, relative to the row's largest in the section, and need one: three instructions do the work of two,
// which is two thirds of the peak at most. Everything of a row stays in registers: a section costs a warp 96
// matrix instructions and some 650 others.
#include "quant/cuda/attend_dims.h"
#include "quant/cuda/attend_kernel.cuh"
#include "quant/cuda/prefill_unpack.cuh"

namespace quire::cuda {
namespace {

constexpr uint32_t kWarps = 8;
constexpr uint32_t kThreads = kWarps * kWarpLanes;
constexpr uint32_t kWarpRows = 16;
constexpr uint32_t kRows = kWarps * kWarpRows;
constexpr int kTokensOfThread = 16;  // token 32 (k / 8) + 8 i + k % 8 in element k
constexpr float kTopWeight = 255.0F;
constexpr uint32_t kMeansAtOnce = 8;  // sections whose means are multiplied together, a column each
constexpr int kSumBits = 0x4B400000;  // of 1.5 * 2^23: a sum below 2^22 that starts there reads as a float
constexpr float kSumFloat = 12582912.0F;

// ---- queries ----

// 16 rows in 16 bits each, as two operands of bytes, for each block of 32 channels.
template <int kBlocks>
struct Queries {
  uint32_t upper[kBlocks][4];
  uint32_t lower[kBlocks][4];
  float scale[2];  // of rows g and g + 8
};

template <int kBlocks>
__device__ __forceinline__ void quantise_rows(const WarpContext& w, Queries<kBlocks>& queries) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = 1e-30F;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      float x[8];
      load_query<kBlocks>(w, half, b, x);
#pragma unroll
      for (int k = 0; k < 8; ++k) largest = fmaxf(largest, fabsf(x[k]));
    }
    const float top = quad_max(largest);
    const float inverse = kQueryTop * reciprocal_approx(top);
    queries.scale[half] = top * (1.0F / kQueryTop);
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      float x[8];
      load_query<kBlocks>(w, half, b, x);
      uint32_t v[8];
#pragma unroll
      for (int k = 0; k < 8; ++k) v[k] = rounded_bits(x[k], inverse) + 128U;
      uint32_t upper[2];
      uint32_t lower[2];
      pack_halves<true>(v, upper, lower);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        queries.upper[b][half + 2 * r] = upper[r];
        queries.lower[b][half + 2 * r] = lower[r] ^ 0x80808080U;
      }
    }
  }
}

// The rows' products with the means of the next sections, in level units: section c of eight in column c.
template <int kBlocks>
__device__ __forceinline__ void multiply_section_means(const AttendArgs& args, const SectionRef* sections,
                                                       uint32_t first, uint32_t end, Lane at,
                                                       const Queries<kBlocks>& queries,
                                                       float (&products)[4]) {
  const uint32_t section = min(first + at.g, end - 1);
  const uint8_t* means =
      sections[section].section + args.format.layout.key_meta + kPrefillTokens + size_t{8} * at.i;
  int upper[4] = {};
  int lower[4] = {};
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    const auto mean = load_as<uint2>(means + 32 * b);
    const uint32_t operand[2] = {__byte_perm(mean.x, mean.y, 0x5140U), __byte_perm(mean.x, mean.y, 0x7362U)};
    mma_bytes(SignedBytes{}, SignedBytes{}, upper, queries.upper[b], operand);
    mma_bytes(SignedBytes{}, SignedBytes{}, lower, queries.lower[b], operand);
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) products[k] = static_cast<float>(upper[k] * 256 + lower[k]);
}

// ---- a section in shared memory ----

template <int kBlocks>
struct Unpacked {
  static constexpr uint32_t kUnits = 2 * kBlocks;  // of a side
  static constexpr uint32_t kBytes = 2 * kUnits * kUnitBytes;
  uint8_t* keys;        // [group of 32 tokens][block of 32 channels] units
  uint8_t* values;      // the same
  float* key_scales;    // [64]
  float* value_shares;  // [64]: of the largest, times kTopWeight
  float* means;         // [dim] of values
};

// A section as it was copied: codes, mixed, then meta.
struct Packed {
  uint8_t* keys;
  uint8_t* values;
  uint8_t* meta;  // of keys, then of values: [64 + dim] each
};

template <int kBlocks>
__device__ __forceinline__ void copy_section(const AttendArgs& args, const SectionRef& ref,
                                             const Packed& to) {
  const SectionLayout& layout = args.format.layout;
  constexpr uint32_t kDim = kBlocks * 32;
  copy_codes(to.keys, ref.section, layout.value_codes, kPrefillTokens * 4);
  copy_codes(to.values, ref.section + layout.value_codes, layout.key_meta - layout.value_codes, kDim * 4);
  const uint32_t meta = 2 * (kPrefillTokens + kDim);
  if (16 * threadIdx.x < meta) {
    copy_async16(to.meta + 16 * threadIdx.x, ref.section + layout.key_meta + 16 * threadIdx.x);
  }
}

template <int kBlocks>
__device__ __forceinline__ void unpack_section(const AttendArgs& args, const SectionRef& ref, Lane at,
                                               const int8_t* levels, const Packed& packed,
                                               const Unpacked<kBlocks>& to) {
  constexpr uint32_t kDim = kBlocks * 32;
  constexpr uint32_t kUnits = Unpacked<kBlocks>::kUnits;
  const SectionFormat& format = args.format;
  const PackedCodes keys{packed.keys, kPrefillTokens, kDim};
  const PackedCodes values{packed.values, kDim, kPrefillTokens};
  for (uint32_t unit = threadIdx.x / kWarpLanes; unit < kUnits; unit += kWarps) {
    store_unit(to.keys + unit * kUnitBytes,
               unpack_unit(format.key, keys, levels, unit % kBlocks, unit / kBlocks * 32, at));
    store_unit(to.values + unit * kUnitBytes, unpack_unit(format.value, values, levels + kDecodeLevels,
                                                          unit / kBlocks, unit % kBlocks * 32, at));
  }
  const uint8_t* value_meta = packed.meta + kPrefillTokens + kDim;
  if (threadIdx.x < kPrefillTokens) {
    const uint32_t t = threadIdx.x;
    to.key_scales[t] = token_scale(format.key, ref.key_param, packed.meta[t]);
    const float top = token_scale(format.value, ref.value_param, 255);
    const float scale = token_scale(format.value, ref.value_param, value_meta[t]);
    to.value_shares[t] = top > 0.0F ? scale / top * kTopWeight : 0.0F;
  } else if (threadIdx.x - kPrefillTokens < kDim) {
    const uint32_t c = threadIdx.x - kPrefillTokens;
    const auto code = static_cast<int8_t>(value_meta[kPrefillTokens + c]);
    to.means[c] = static_cast<float>(code) * mean_step(format.value, ref.value_param);
  }
}

// ---- rows ----

__device__ __forceinline__ void load_sixteen(const float* of_tokens, uint32_t i,
                                             float (&x)[kTokensOfThread]) {
#pragma unroll
  for (int k = 0; k < kTokensOfThread; k += 4) {
    const auto four = load_as<float4>(of_tokens + 32 * (k / 8) + 8 * i + k % 8);
    x[k] = four.x;
    x[k + 1] = four.y;
    x[k + 2] = four.z;
    x[k + 3] = four.w;
  }
}

// products: [rows g, g + 8][tokens], query integers times levels times tokens' scales.
template <int kBlocks>
__device__ __forceinline__ void multiply_keys(const Unpacked<kBlocks>& section, Lane at,
                                              const Queries<kBlocks>& queries,
                                              float (&products)[2][kTokensOfThread]) {
  float scales[kTokensOfThread];
  load_sixteen(section.key_scales, at.i, scales);
#pragma unroll
  for (int group = 0; group < 2; ++group) {
    int upper[4][4];
    int lower[4][4];
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const Unit unit = load_unit(section.keys + (group * kBlocks + b) * kUnitBytes);
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        if (b == 0) {
          const int from[4] = {0, 0, 0, 0};
          mma_bytes(SignedBytes{}, SignedBytes{}, upper[t], queries.upper[b], unit.b[t], from);
          mma_bytes(SignedBytes{}, SignedBytes{}, lower[t], queries.lower[b], unit.b[t], from);
        } else {
          mma_bytes(SignedBytes{}, SignedBytes{}, upper[t], queries.upper[b], unit.b[t]);
          mma_bytes(SignedBytes{}, SignedBytes{}, lower[t], queries.lower[b], unit.b[t]);
        }
      }
    }
#pragma unroll
    for (int k = 0; k < 8; ++k) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at_sum = 2 * half + k / 4;
        const int sum = upper[k % 4][at_sum] * 256 + lower[k % 4][at_sum];
        products[half][8 * group + k] = static_cast<float>(sum) * scales[8 * group + k];
      }
    }
  }
}

// What a row's weights of a section are worth: sum of weights, and the value of one unit of them.
struct Worth {
  float weight;  // of this thread's tokens, below 64
  float share;   // by which they are less than those of the row's maximum
};

// Products become weights of 0 to 255, in the bits of floats, relative to the row's largest score of the
// section; the row's state is brought to its new maximum.
template <int kBlocks>
__device__ __forceinline__ Worth weigh_row(float scale, float offset, const float (&shares)[kTokensOfThread],
                                           float (&products)[kTokensOfThread], RowState<kBlocks>& row) {
  float largest = products[0];
#pragma unroll
  for (int k = 1; k < kTokensOfThread; ++k) largest = fmaxf(largest, products[k]);
  const float top = fmaxf(quad_max(largest) * scale + offset, kEmptyScore);
  const float m = fmaxf(row.m, top);
  if (__any_sync(kAllLanes, m > row.m ? 1 : 0) != 0) {
    const float keep = exp2_approx(row.m - m);
    row.m = m;
    row.l *= keep;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int k = 0; k < 8; ++k) row.o[b][k] *= keep;
    }
  }
  const float less = offset - top;
  Worth worth{0.0F, exp2_approx(top - m)};
#pragma unroll
  for (int k = 0; k < kTokensOfThread; ++k) {
    const float weight = exp2_approx(products[k] * scale + less);
    worth.weight += weight;
    products[k] = weight * shares[k] + kSumFloat;  // the lowest byte is the rounded weight
  }
  row.l += worth.weight * worth.share;
  return worth;
}

// Bytes of eight weights in pack_order<true>.
__device__ __forceinline__ void pack_weights(const float* weights, uint32_t& first, uint32_t& second) {
  const auto pair = [&](int a, int b) {
    return __byte_perm(__float_as_uint(weights[a]), __float_as_uint(weights[b]), 0x0040U);
  };
  first = __byte_perm(pair(0, 4), pair(1, 5), 0x5410U);
  second = __byte_perm(pair(2, 6), pair(3, 7), 0x5410U);
}

template <int kBlocks>
__device__ __forceinline__ void add_values(const Unpacked<kBlocks>& section, Lane at,
                                           const float (&weights)[2][kTokensOfThread],
                                           const float (&unit_worth)[2], const float (&mean_worth)[2],
                                           RowState<kBlocks> (&rows)[2]) {
  uint32_t a[2][4];
#pragma unroll
  for (int group = 0; group < 2; ++group) {
    pack_weights(weights[0] + 8 * group, a[group][0], a[group][2]);
    pack_weights(weights[1] + 8 * group, a[group][1], a[group][3]);
  }
  const int from[4] = {kSumBits, kSumBits, kSumBits, kSumBits};
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    int sums[4][4];
    const Unit first = load_unit(section.values + b * kUnitBytes);
#pragma unroll
    for (int t = 0; t < 4; ++t) mma_bytes(UnsignedBytes{}, SignedBytes{}, sums[t], a[0], first.b[t], from);
    const Unit second = load_unit(section.values + (kBlocks + b) * kUnitBytes);
#pragma unroll
    for (int t = 0; t < 4; ++t) mma_bytes(UnsignedBytes{}, SignedBytes{}, sums[t], a[1], second.b[t]);
    const auto low = load_as<float4>(section.means + 32 * b + 8 * at.i);
    const auto high = load_as<float4>(section.means + 32 * b + 8 * at.i + 4);
    const float means[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const float sum = __int_as_float(sums[k % 4][2 * half + k / 4]) - kSumFloat;
        float& o = rows[half].o[b][k];
        o += sum * unit_worth[half];
        o += means[k] * mean_worth[half];
      }
    }
  }
}

__device__ __forceinline__ float of_column(const float (&products)[4], int half, uint32_t column) {
  const float value = column % 2 == 0 ? products[2 * half] : products[2 * half + 1];
  return __shfl_sync(kAllLanes, value, static_cast<int>(column / 2), 4);
}

template <int kBlocks>
__device__ __forceinline__ void attend_unpacked(const AttendArgs& args, const SectionRef& ref, Lane at,
                                                const Unpacked<kBlocks>& section,
                                                const Queries<kBlocks>& queries, const float (&means)[4],
                                                uint32_t column, const int (&first)[2],
                                                RowState<kBlocks> (&rows)[2]) {
  float weights[2][kTokensOfThread];
  multiply_keys(section, at, queries, weights);
  const float key_mean = mean_step(args.format.key, ref.key_param);
  float shares[kTokensOfThread];
  load_sixteen(section.value_shares, at.i, shares);
  const float value_top = token_scale(args.format.value, ref.value_param, 255) * (1.0F / kTopWeight);
  float unit_worth[2];
  float mean_worth[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (__any_sync(kAllLanes, first[half] > 0 ? 1 : 0) != 0) {
#pragma unroll
      for (int k = 0; k < kTokensOfThread; ++k) {
        if (32 * (k / 8) + static_cast<int>(8 * at.i) + k % 8 < first[half]) weights[half][k] = -INFINITY;
      }
    }
    const float scale = queries.scale[half];
    const float offset = of_column(means, half, column) * (scale * key_mean);
    const Worth worth = weigh_row(scale, offset, shares, weights[half], rows[half]);
    unit_worth[half] = worth.share * value_top;
    mean_worth[half] = quad_sum(worth.weight) * worth.share;
  }
  add_values(section, at, weights, unit_worth, mean_worth, rows);
}

template <int kBlocks>
__device__ __forceinline__ void store_tile(const AttendArgs& args, uint32_t head, uint32_t first_row, Lane at,
                                           RowState<kBlocks> (&rows)[2]) {
  constexpr uint32_t kDim = kBlocks * 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float l = quad_sum(rows[half].l);
    const uint32_t row = first_row + 8 * static_cast<uint32_t>(half) + at.g;
    if (row >= args.rows) continue;
    const size_t out = (size_t{head} * gridDim.x + blockIdx.x) * args.rows + row;
    float* o = args.partials.o + out * kDim + 8 * at.i;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const float(&x)[8] = rows[half].o[b];
      store_as<float4>(o + 32 * b, make_float4(x[0], x[1], x[2], x[3]));
      store_as<float4>(o + 32 * b + 4, make_float4(x[4], x[5], x[6], x[7]));
    }
    if (at.i != 0) continue;
    args.partials.m[out] = l == 0.0F ? -INFINITY : rows[half].m;
    args.partials.l[out] = l;
  }
}

template <int kBlocks>
constexpr size_t packed_bytes(const SectionFormat& format) {
  return size_t{format.layout.key_meta} + 2 * (kPrefillTokens + kBlocks * 32);
}
template <int kBlocks>
constexpr size_t shared_bytes(const SectionFormat& format) {
  constexpr size_t kFloats = 2 * kPrefillTokens + kBlocks * 32;
  return 2 * (packed_bytes<kBlocks>(format) + Unpacked<kBlocks>::kBytes + kFloats * sizeof(float)) +
         2 * kDecodeLevels;
}

// Two of each, by address arithmetic: arrays of structs would go to local memory.
template <int kBlocks>
struct Slots {
  static constexpr uint32_t kDim = kBlocks * 32;
  static constexpr uint32_t kMeta = 2 * (kPrefillTokens + kDim);
  uint32_t key_bytes;
  uint32_t value_bytes;
  Packed first_packed;
  Unpacked<kBlocks> first_unpacked;

  __device__ __forceinline__ Slots(const SectionFormat& format, Smem& shared)
      : key_bytes(format.layout.value_codes),
        value_bytes(format.layout.key_meta - format.layout.value_codes) {
    first_packed.keys = shared.take<uint8_t>(size_t{2} * key_bytes);
    first_packed.values = shared.take<uint8_t>(size_t{2} * value_bytes);
    first_packed.meta = shared.take<uint8_t>(size_t{2} * kMeta);
    first_unpacked.keys = shared.take<uint8_t>(Unpacked<kBlocks>::kBytes);
    first_unpacked.values = shared.take<uint8_t>(Unpacked<kBlocks>::kBytes);
    first_unpacked.key_scales = shared.take<float>(2 * kPrefillTokens);
    first_unpacked.value_shares = shared.take<float>(2 * kPrefillTokens);
    first_unpacked.means = shared.take<float>(2 * kDim);
  }
  __device__ __forceinline__ Packed packed(uint32_t slot) const {
    return {first_packed.keys + slot * key_bytes, first_packed.values + slot * value_bytes,
            first_packed.meta + slot * kMeta};
  }
  __device__ __forceinline__ Unpacked<kBlocks> unpacked(uint32_t slot) const {
    const Unpacked<kBlocks>& first = first_unpacked;
    constexpr uint32_t kSide = Unpacked<kBlocks>::kBytes / 2;
    return {first.keys + slot * kSide, first.values + slot * kSide, first.key_scales + slot * kPrefillTokens,
            first.value_shares + slot * kPrefillTokens, first.means + slot * kDim};
  }
};

template <int kBlocks>
__global__ void __launch_bounds__(kThreads, 1)
    attend_prefill_kernel(const __grid_constant__ AttendArgs args) {
  constexpr uint32_t kDim = kBlocks * 32;
  const uint32_t head = blockIdx.y;
  const uint32_t first_row = blockIdx.z * kRows + threadIdx.x / kWarpLanes * kWarpRows;
  const Lane at = this_lane();

  Smem shared;
  int8_t* levels = shared.take<int8_t>(2 * kDecodeLevels);
  const Slots<kBlocks> slots(args.format, shared);
  if (threadIdx.x < 2 * kDecodeLevels) {
    const Side side = threadIdx.x < kDecodeLevels ? Side::kKey : Side::kValue;
    levels[threadIdx.x] = table_level(args.format, side, threadIdx.x % kDecodeLevels);
  }

  const uint32_t begin = blockIdx.x * args.run_sections;
  const uint32_t end = min(begin + args.run_sections, args.section_count);
  const SectionRef* sections = args.sections + size_t{head} * args.section_stride;
  copy_section<kBlocks>(args, sections[begin], slots.packed(0));
  copy_async_commit();
  if (begin + 1 < end) copy_section<kBlocks>(args, sections[begin + 1], slots.packed(1));
  copy_async_commit();

  // Rows beyond the last are taken for the last: what they give is not kept.
  const uint32_t from_row = min(first_row, args.rows - 1);
  const WarpContext w{args, args.q + (size_t{head} * args.rows + from_row) * kDim, args.rows - from_row - 1,
                      at};
  Queries<kBlocks> queries;
  quantise_rows(w, queries);
  int64_t first_token[2] = {0, 0};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t row = min(from_row + 8 * static_cast<uint32_t>(half) + at.g, args.rows - 1);
    if (args.first_token != nullptr) first_token[half] = args.first_token[row];
  }
  RowState<kBlocks> rows[2];
  clear_rows(rows);
  copy_async_wait<1>();
  __syncthreads();
  unpack_section(args, sections[begin], at, levels, slots.packed(0), slots.unpacked(0));

  float means[4];
  for (uint32_t s = begin; s < end; ++s) {
    const uint32_t slot = (s - begin) % 2;
    copy_async_wait<0>();
    __syncthreads();
    if (s + 2 < end) copy_section<kBlocks>(args, sections[s + 2], slots.packed(slot));
    copy_async_commit();
    if (s + 1 < end)
      unpack_section(args, sections[s + 1], at, levels, slots.packed(1 - slot), slots.unpacked(1 - slot));
    const uint32_t column = (s - begin) % kMeansAtOnce;
    if (column == 0) multiply_section_means(args, sections, s, end, at, queries, means);
    const uint32_t sinks = s == 0 ? args.format.sink_tokens : 0;
    int first[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t seen = first_token[half] - static_cast<int64_t>(s) * kPrefillTokens;
      first[half] = static_cast<int>(max(seen, static_cast<int64_t>(sinks)));
    }
    if (sinks > 0) attend_sinks(w, sections[s], from_row, sinks, rows);
    attend_unpacked(args, sections[s], at, slots.unpacked(slot), queries, means, column, first, rows);
  }
  store_tile(args, head, first_row, at, rows);
}

template <int kBlocks>
cudaError_t launch_prefill(const AttendArgs& args, cudaStream_t stream) {
  const dim3 grid(run_count(args), args.kv_heads, (args.rows + kRows - 1) / kRows);
  return launch({grid, kThreads, shared_bytes<kBlocks>(args.format), stream}, attend_prefill_kernel<kBlocks>,
                args);
}

bool in_rotated_space(const DeviceCodec& codec) {
  return codec.family == CodecFamily::kRotated || codec.family == CodecFamily::kTrellis;
}

}  // namespace

cudaError_t attend_prefill_tiles(const AttendArgs& args, cudaStream_t stream) {
  const SectionFormat& format = args.format;
  if (format.shape.tokens != kPrefillTokens || args.rotation.rotary_dim > 0 ||
      !in_rotated_space(format.key) || !in_rotated_space(format.value)) {
    return cudaErrorNotSupported;
  }
  if (args.section_count == 0 || args.rows == 0) return cudaSuccess;
  switch (format.shape.dim) {
    case 64:
      return launch_prefill<2>(args, stream);
    case 128:
      return launch_prefill<4>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace quire::cuda
