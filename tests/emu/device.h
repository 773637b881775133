// What stands behind the device functions of <cuda_runtime.h> and behind Quire's own wrappers: barriers, warp
// collectives, shared memory, asynchronous copies.
//
// Every collective is known by its call site (file, line and column): lanes that meet in different ones are
// told apart and the kernel fails with a report of who waits where. Functions here are called by running CUDA
// threads alone. Thread safety: one block runs at a time on one thread of the host.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>

#include "tests/emu/control.h"

namespace emu {

using Site = std::source_location;

struct ThreadContext {
  uint3 thread;
  uint3 block;
  dim3 block_dim;
  dim3 grid_dim;
  unsigned lane;
  unsigned warp;
};
extern constinit thread_local ThreadContext* self;  // nullptr outside kernels

// Ends the kernel with cudaErrorLaunchFailure and this reason. Outside a kernel it ends the process.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

enum class Vote : uint8_t { kNone, kCount, kAnd, kOr };
// The votes of all threads of the block.
int block_barrier(Vote vote, int predicate, const Site& site);

// Runs once when all lanes of `mask` have arrived, for those lanes. in[lane], out[lane]: what each gave.
using Combine = void (*)(const void* const* in, void* const* out, unsigned mask);
// fences: memory that lanes wrote before is seen by the others afterwards. True of __syncwarp alone.
void warp_collective(const char* name, unsigned mask, const void* in, void* out, Combine combine, bool fences,
                     const Site& site);

// Memory of the block, one object per key, filled with 0xFF bytes: NaN to whoever reads before writing.
void* static_shared(const void* key, size_t bytes, size_t align);
// Part `index` of the dynamic shared memory, at `offset` in it; all threads must ask for the same.
void* dynamic_shared(unsigned index, size_t offset, size_t bytes);
// How a pointer of the running kernel is known; for checks.
bool is_shared(const void* at, size_t bytes);

// The bytes at dst are 0xFF until this thread waits for the group.
void copy_async(void* dst, const void* src, size_t bytes, const Site& site);
void copy_async_commit();
void copy_async_wait(size_t groups_left);

// Orders atomics as __threadfence does.
void thread_fence();
void before_atomic(void* at);
void after_atomic(void* at);

void check_aligned(const void* at, size_t bytes, const char* what);

// Puts the kernel into the stream. Returns what the driver checks at once.
int launch_kernel(dim3 grid, dim3 block, size_t shared_bytes, struct CUstream_st* stream, const void* kernel,
                  std::function<void()> body);

}  // namespace emu
