// Attention over whatever the other kernels do not know: trellis and non-uniform codecs in pairs or shapes
// that have no staged kernel, and keys of any codec in pre_rope space. A warp unfolds 32 tokens of a section
// at a time to f32 in shared memory, turns the keys, and multiplies them as floats. It takes any codes that
// can be decoded, and its time for it.
#include "quant/cuda/attend_dims.h"
#include "quant/cuda/attend_kernel.cuh"
#include "quant/cuda/decoded.cuh"
#include "quant/hadamard.h"

namespace quire::cuda {
namespace {

constexpr uint32_t kGroup = 32;              // tokens that are unfolded at a time
constexpr uint32_t kKeyStride = kGroup + 4;  // of a channel's tokens: rows stay apart in banks
constexpr uint32_t kRows = 8;

// A warp's shared memory.
struct Space {
  float* q;         // [kRows][dim], turned back by the section's position
  float* unfolded;  // keys [dim][kKeyStride], then values [kGroup][dim + 4]
};

constexpr uint32_t warps_of(int blocks) { return blocks <= 4 ? 4 : 2; }
constexpr size_t unfolded_floats(int blocks) { return size_t{32} * static_cast<size_t>(blocks) * kKeyStride; }

// ---- keys: a lane has a token, whose channels stand below each other ----

// key: [dim] kKeyStride apart. H and then 1 / balance: out of the codec's space.
__device__ __forceinline__ void leave_rotated_space(float* key, uint32_t dim, const float* balance) {
  const uint32_t block = hadamard_block(dim);
  for (uint32_t h = 1; h < block; h *= 2) {
    for (uint32_t pair = 0; pair < dim / 2; ++pair) {
      const uint32_t c = pair / h * 2 * h + pair % h;
      const float a = key[c * kKeyStride];
      const float b = key[(c + h) * kKeyStride];
      key[c * kKeyStride] = a + b;
      key[(c + h) * kKeyStride] = a - b;
    }
  }
  const float norm = hadamard_norm(block);
  for (uint32_t c = 0; c < dim; ++c) {
    key[c * kKeyStride] = key[c * kKeyStride] * norm / (balance == nullptr ? 1.0F : balance[c]);
  }
}

__device__ __forceinline__ void turn_key(const AttendArgs& args, float* key, uint32_t head, uint32_t token) {
  const DeviceKeyRotation& rotation = args.rotation;
  const uint32_t dim = args.format.shape.dim;
  if (args.format.key.family == CodecFamily::kRotated || args.format.key.family == CodecFamily::kTrellis) {
    const float* balance =
        rotation.key_balance == nullptr ? nullptr : rotation.key_balance + size_t{head} * dim;
    leave_rotated_space(key, dim, balance);
  }
  const uint32_t half = rotation.rotary_dim / 2;
  for (uint32_t i = 0; i < half; ++i) {
    const float a = key[i * kKeyStride];
    const float b = key[(i + half) * kKeyStride];
    const float cosine = rotation.token_cos[size_t{i} * args.format.shape.tokens + token];
    const float sine = rotation.token_sin[size_t{i} * args.format.shape.tokens + token];
    key[i * kKeyStride] = a * cosine - b * sine;
    key[(i + half) * kKeyStride] = b * cosine + a * sine;
  }
}

__device__ __forceinline__ void unfold_keys(const AttendArgs& args, const FoldedSide& side,
                                            const uint8_t* section, uint32_t sinks, uint32_t head,
                                            uint32_t group, float* unfolded) {
  const uint32_t dim = args.format.shape.dim;
  const uint32_t token = group + threadIdx.x % kWarpLanes;
  float* key = unfolded + threadIdx.x % kWarpLanes;
  __syncwarp();
  for (uint32_t c = 0; c < dim; ++c) {
    key[c * kKeyStride] = token < sinks ? sink_value(section + args.format.layout.sink_keys, dim, token, c)
                                        : decoded(side, token, c);
  }
  if (args.rotation.rotary_dim > 0) turn_key(args, key, head, token);
  __syncwarp();
}

// ---- values: a lane has channels ----

__device__ __forceinline__ void unfold_values(const AttendArgs& args, const FoldedSide& side,
                                              const uint8_t* section, uint32_t sinks, uint32_t group,
                                              float* unfolded) {
  const uint32_t dim = args.format.shape.dim;
  __syncwarp();
  for (uint32_t t = 0; t < kGroup; ++t) {
    for (uint32_t c = threadIdx.x % kWarpLanes; c < dim; c += kWarpLanes) {
      unfolded[t * (dim + 4) + c] =
          group + t < sinks ? sink_value(section + args.format.layout.sink_values, dim, group + t, c)
                            : decoded(side, group + t, c);
    }
  }
  __syncwarp();
}

// ---- queries ----

// from, to: [kRows][dim].
__device__ __forceinline__ void turn_queries_back(const AttendArgs& args, uint32_t section, const float* from,
                                                  float* to) {
  const uint32_t dim = args.format.shape.dim;
  const uint32_t half = args.rotation.rotary_dim / 2;
  __syncwarp();
  for (uint32_t i = threadIdx.x % kWarpLanes; i < kRows * dim; i += kWarpLanes) {
    const uint32_t c = i % dim;
    float x = from[i];
    if (c < 2 * half) {
      const size_t angle = size_t{section} * half + c % half;
      const float other = from[c < half ? i + half : i - half];
      const float sine = args.rotation.base_sin[angle];
      x = x * args.rotation.base_cos[angle] + (c < half ? other * sine : -(other * sine));
    }
    to[i] = x;
  }
  __syncwarp();
}

// ---- a section ----

template <int kBlocks>
__device__ __forceinline__ void attend_section_unfolded(const WarpContext& w, uint32_t section, uint32_t head,
                                                        int first, const int8_t* levels, const Space& space,
                                                        RowState<kBlocks> (&rows)[1]) {
  constexpr uint32_t kDim = kBlocks * 32;
  const AttendArgs& args = w.args;
  const SectionRef& ref = args.sections[size_t{head} * args.section_stride + section];
  const uint32_t sinks = section == 0 ? args.format.sink_tokens : 0;
  const FoldedSide keys = folded_side(args.format, Side::kKey, ref, levels);
  const FoldedSide values = folded_side(args.format, Side::kValue, ref, levels + kDecodeLevels);
  const auto* bytes = reinterpret_cast<const uint8_t*>(space.unfolded);
  for (uint32_t group = 0; group < args.format.shape.tokens; group += kGroup) {
    float scores[1][8];
    unfold_keys(args, keys, ref.section, sinks, head, group, space.unfolded);
    float_scores<CodecId::kF32, kBlocks>(w, bytes, kKeyStride, 4 * w.at.g, scores);
    weigh(w, first - static_cast<int>(group), scores[0], rows[0]);
    unfold_values(args, values, ref.section, sinks, group, space.unfolded);
    float_values<CodecId::kF32>(w, bytes, kDim + 4, 0, scores, rows);
  }
}

template <int kBlocks>
__global__ void __launch_bounds__(warps_of(kBlocks) * kWarpLanes, 1)
    attend_unfolded_kernel(const __grid_constant__ AttendArgs args) {
  constexpr uint32_t kDim = kBlocks * 32;
  const uint32_t warp = threadIdx.x / kWarpLanes;
  const uint32_t head = blockIdx.y;
  const uint32_t first_row = blockIdx.z * kRows;

  Smem shared;
  float* q = shared.take<float>(kRows * kDim);
  float* m = shared.take<float>(kRows);
  float* l = shared.take<float>(kRows);
  int8_t* levels = shared.take<int8_t>(2 * kDecodeLevels);
  float* turned = shared.take<float>(size_t{warps_of(kBlocks)} * kRows * kDim) + size_t{warp} * kRows * kDim;
  float* unfolded = shared.take<float>(warps_of(kBlocks) * unfolded_floats(kBlocks));
  const Space space{turned, unfolded + warp * unfolded_floats(kBlocks)};
  load_block_rows<kBlocks>(args, head, first_row, kRows, q);
  for (uint32_t i = threadIdx.x; i < 2 * kDecodeLevels; i += blockDim.x) {
    levels[i] = table_level(args.format, i < kDecodeLevels ? Side::kKey : Side::kValue, i % kDecodeLevels);
  }
  __syncthreads();

  const bool turns = args.rotation.rotary_dim > 0;
  const uint32_t begin = blockIdx.x * args.run_sections;
  const uint32_t end = min(begin + args.run_sections, sections_of(args, head));
  const WarpContext w{args, turns ? space.q : q, kRows - 1, this_lane()};
  RowState<kBlocks> rows[1];
  clear_rows(rows);
  for (uint32_t s = begin + warp; s < end; s += warps_of(kBlocks)) {
    if (turns) turn_queries_back(args, s, q, space.q);
    attend_section_unfolded(w, s, head, visible_from(args, first_row + w.at.g, s), levels, space, rows);
  }
  close_rows(rows);
  __syncthreads();
  merge_warps(w, warp, q, m, l, rows);
  store_block_rows<kBlocks>(args, head, first_row, kRows, q, m, l);
}

template <int kBlocks>
cudaError_t launch_unfolded(const AttendArgs& args, cudaStream_t stream) {
  constexpr uint32_t kWarps = warps_of(kBlocks);
  const dim3 grid(run_count(args), args.kv_heads, (args.rows + kRows - 1) / kRows);
  constexpr size_t kFloats =
      (1 + kWarps) * size_t{kRows} * kBlocks * 32 + 2 * kRows + kWarps * unfolded_floats(kBlocks);
  return launch({grid, kWarps * kWarpLanes, kFloats * sizeof(float) + 2 * kDecodeLevels, stream},
                attend_unfolded_kernel<kBlocks>, args);
}

}  // namespace

cudaError_t attend_unfolded(const AttendArgs& args, cudaStream_t stream) {
  if (args.section_count == 0 || args.rows == 0) return cudaSuccess;
  switch (args.format.shape.dim) {
    case 32:
      return launch_unfolded<1>(args, stream);
    case 64:
      return launch_unfolded<2>(args, stream);
    case 96:
      return launch_unfolded<3>(args, stream);
    case 128:
      return launch_unfolded<4>(args, stream);
    case 160:
      return launch_unfolded<5>(args, stream);
    case 192:
      return launch_unfolded<6>(args, stream);
    case 224:
      return launch_unfolded<7>(args, stream);
    case 256:
      return launch_unfolded<8>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace quire::cuda
