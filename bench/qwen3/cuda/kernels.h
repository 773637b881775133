// The decoder's kernels as functions of the host: each puts work into a stream and returns at once. Built by
// nvcc, or by a host compiler against the emulator (tests/emu).
//
// Rows are f32, dense unless a stride is given; all pointers are to memory of the device, alive until the
// work has run. Every result depends on its own row alone, and on no schedule. Errors are of the launch
// alone; those of the work come from later calls on the stream. Thread safety: functions touch only their
// arguments.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace quire::qwen3::cuda {

// out [rows][width] = the rows of a bf16 table [..][width] that `tokens` [rows] name; all are in the table.
struct EmbedArgs {
  const uint16_t* table;
  const int32_t* tokens;
  float* out;
  uint32_t rows;
  uint32_t width;
};
[[nodiscard]] cudaError_t embed(const EmbedArgs& args, cudaStream_t stream);

// out = x / rms(x) * weight, by rows of [rows][width]; out may be x.
struct NormArgs {
  const float* x;
  const float* weight;  // [width]
  float* out;
  uint32_t rows;
  uint32_t width;
  float eps;
};
[[nodiscard]] cudaError_t norm_rows(const NormArgs& args, cudaStream_t stream);

// Rows of [query_heads + 2 kv_heads][dim]: queries, keys, values.
struct HeadRows {
  float* data;
  uint32_t rows;
  uint32_t query_heads;
  uint32_t kv_heads;
  uint32_t dim;  // even
};
// Queries and keys normalised in place, head by head.
struct HeadNormArgs {
  HeadRows heads;
  const float* query_weight;  // [dim]
  const float* key_weight;    // [dim]
  float eps;
};
[[nodiscard]] cudaError_t norm_heads(const HeadNormArgs& args, cudaStream_t stream);

// Queries and keys rotated in place, pairs (i, i + dim / 2).
struct RotateArgs {
  HeadRows heads;
  const float* cosines;  // [rows][dim / 2]
  const float* sines;    // as many
};
[[nodiscard]] cudaError_t rotate_heads(const RotateArgs& args, cudaStream_t stream);

// gate_up [rows][2 width] = gate, up; out [rows][width] = silu(gate) * up.
struct SwigluArgs {
  const float* gate_up;
  float* out;
  uint32_t rows;
  uint32_t width;
};
[[nodiscard]] cudaError_t swiglu(const SwigluArgs& args, cudaStream_t stream);

// x [count] += y [period], again and again: a bias of rows, or with period == count other rows.
struct AddArgs {
  float* x;
  const float* y;
  uint64_t count;
  uint64_t period;
};
[[nodiscard]] cudaError_t add(const AddArgs& args, cudaStream_t stream);

// f32 as the sum of two bf16, which leaves 2^-17 of a value at most: parts [2][count], high then low.
struct SplitArgs {
  const float* x;
  uint16_t* parts;
  uint64_t count;
};
[[nodiscard]] cudaError_t split(const SplitArgs& args, cudaStream_t stream);

// out [count] = parts [2][count] added up.
struct JoinArgs {
  const float* parts;
  float* out;
  uint64_t count;
};
[[nodiscard]] cudaError_t join(const JoinArgs& args, cudaStream_t stream);

// Chooses a token as Sampler::pick does (sampler.h). Shares are whole numbers of 2^-44 of the likeliest
// token's, so that sums have no order; a draw meets another token than in f64 with a chance of some 1e-8.
struct SampleArgs {
  const float* logits;  // [vocab], finite
  uint32_t vocab;       // at most 2^18
  uint32_t top_k;       // 0: all
  double temperature;   // 0: the likeliest, the first of several
  double top_p;         // (0, 1]
  double uniform;       // [0, 1): the draw
  uint64_t* shares;     // [vocab] of scratch
  int32_t* token;       // [1]
};
[[nodiscard]] cudaError_t sample(const SampleArgs& args, cudaStream_t stream);

}  // namespace quire::qwen3::cuda
