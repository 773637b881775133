// The next token from logits: as Sampler::pick, without sorting.
//
// Tokens are ordered by a key that no two share, the likelier first. Every cut of that order (the k-th token,
// the end of the share top_p, the draw) is the same search: the shortest run from the front whose weights
// reach a target. It goes digit by digit over histograms of weights, which are whole numbers: their sums have
// no order.
#include "bench/qwen3/cuda/kernels.h"
#include "quant/cuda/gpu.h"
#include "quant/cuda/numbers.cuh"

namespace quire::qwen3::cuda {
namespace {

using quire::cuda::block_reduce;
using quire::cuda::kAllLanes;
using quire::cuda::kWarpLanes;
using quire::cuda::MaxOf;
using quire::cuda::Smem;
using quire::cuda::SumOf;

constexpr uint32_t kThreads = 1024;
constexpr uint32_t kBins = 256;  // a digit has 8 bits
constexpr uint32_t kLaneBins = kBins / kWarpLanes;
constexpr uint32_t kLargestVocab = 1U << 18;
constexpr double kUnits = 0x1p44;  // of the likeliest token's share: 2^18 of them fit into 64 bits

// The logit's bits in the order of floats, then the token, the first one largest.
__device__ __forceinline__ unsigned long long key_of(float logit, uint32_t token) {
  const uint32_t bits = __float_as_uint(logit + 0.0F);  // zeros of either sign are equal
  const uint32_t ordered = (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
  return static_cast<unsigned long long>(ordered) << 32 | (0xFFFFFFFFU - token);
}
__device__ __forceinline__ uint32_t token_of(unsigned long long key) {
  return 0xFFFFFFFFU - static_cast<uint32_t>(key);
}

// A run from the front of the order: down to `last`, whose weights add up to `sum`.
struct Run {
  unsigned long long last;
  unsigned long long sum;
};

struct Search {
  const SampleArgs& args;
  unsigned long long* bins;     // [kBins] in shared memory
  unsigned long long* scratch;  // [kWarpLanes] in shared memory

  // The first warp: which bin, from the highest down, brings the sum to `target`; then scratch[0] is the bin,
  // scratch[1] what the bins above it hold.
  __device__ void choose_bin(unsigned long long target) const {
    if (threadIdx.x >= kWarpLanes) return;
    const uint32_t top = kBins - 1 - threadIdx.x * kLaneBins;
    unsigned long long mine = 0;
    for (uint32_t i = 0; i < kLaneBins; ++i) mine += bins[top - i];
    unsigned long long through = mine;
    for (uint32_t step = 1; step < kWarpLanes; step *= 2) {
      const unsigned long long before = __shfl_up_sync(kAllLanes, through, step);
      if (threadIdx.x >= step) through += before;
    }
    const uint32_t reached = __ballot_sync(kAllLanes, through >= target ? 1 : 0);
    if (static_cast<int>(threadIdx.x) + 1 != __ffs(static_cast<int>(reached))) return;
    unsigned long long above = through - mine;
    uint32_t bin = top;
    while (above + bins[bin] < target) above += bins[bin--];
    scratch[0] = bin;
    scratch[1] = above;
  }

  // The shortest run within keys >= `floor` whose weights reach `target`, which is positive and reached.
  template <typename Weight>
  __device__ Run reach(unsigned long long floor, unsigned long long target, Weight weight) const {
    unsigned long long found = 0;
    unsigned long long above = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
      for (uint32_t bin = threadIdx.x; bin < kBins; bin += blockDim.x) bins[bin] = 0;
      __syncthreads();
      for (uint32_t token = threadIdx.x; token < args.vocab; token += blockDim.x) {
        const unsigned long long key = key_of(args.logits[token], token);
        const bool inside = shift == 56 || (key ^ found) >> (shift + 8) == 0;
        const unsigned long long w = inside && key >= floor ? weight(token) : 0;
        if (w != 0) atomicAdd(&bins[key >> shift & (kBins - 1)], w);
      }
      __syncthreads();
      choose_bin(target - above);
      __syncthreads();
      found |= scratch[0] << shift;
      above += scratch[1];
      __syncthreads();
    }
    return {found, above + weight(token_of(found))};
  }
};

__device__ unsigned long long front_key(const SampleArgs& args, unsigned long long* scratch) {
  unsigned long long best = 0;
  for (uint32_t token = threadIdx.x; token < args.vocab; token += blockDim.x) {
    best = MaxOf{}(best, key_of(args.logits[token], token));
  }
  return block_reduce(best, scratch, MaxOf{});
}

__global__ void __launch_bounds__(kThreads, 1) sample_kernel(const __grid_constant__ SampleArgs args) {
  Smem shared;
  const Search search{args, shared.take<unsigned long long>(kBins),
                      shared.take<unsigned long long>(kWarpLanes)};
  const unsigned long long front = front_key(args, search.scratch);
  unsigned long long chosen = front;
  if (args.temperature != 0.0) {
    const bool all = args.top_k == 0 || args.top_k >= args.vocab;
    const auto one = [](uint32_t) { return 1ULL; };
    const unsigned long long floor = all ? 0 : search.reach(0, args.top_k, one).last;
    const double best = args.logits[token_of(front)];
    unsigned long long sum = 0;
    for (uint32_t token = threadIdx.x; token < args.vocab; token += blockDim.x) {
      const double share = exp((static_cast<double>(args.logits[token]) - best) / args.temperature);
      const auto units = static_cast<unsigned long long>(share * kUnits);
      args.shares[token] = units;
      sum += key_of(args.logits[token], token) >= floor ? units : 0;
    }
    sum = block_reduce(sum, search.scratch, SumOf{});
    // A thread reads the shares that it wrote, but for a run's last.
    const auto share_of = [&](uint32_t token) { return static_cast<unsigned long long>(args.shares[token]); };
    const auto wanted = static_cast<unsigned long long>(ceil(args.top_p * static_cast<double>(sum)));
    const unsigned long long kept = search.reach(floor, min(max(wanted, 1ULL), sum), share_of).sum;
    const auto before = static_cast<unsigned long long>(args.uniform * static_cast<double>(kept));
    chosen = search.reach(floor, min(before + 1, kept), share_of).last;
  }
  if (threadIdx.x == 0) *args.token = static_cast<int32_t>(token_of(chosen));
}

}  // namespace

cudaError_t sample(const SampleArgs& args, cudaStream_t stream) {
  if (args.vocab == 0 || args.vocab > kLargestVocab) return cudaErrorInvalidValue;
  constexpr size_t kShared = (kBins + kWarpLanes) * sizeof(unsigned long long);
  return quire::cuda::launch({1, kThreads, kShared, stream}, sample_kernel, args);
}

}  // namespace quire::qwen3::cuda
