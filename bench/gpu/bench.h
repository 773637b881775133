// What the cases share: the device, its stream, the rate of its copies, the report. Thread safety: none.
#pragma once

#include "bench/gpu/memory.h"
#include "bench/gpu/options.h"
#include "bench/gpu/report.h"

namespace quire::gpu {

struct Bench {
  Options options;
  cudaDeviceProp device{};
  cudaStream_t stream = nullptr;
  double copy_rate = 0;  // bytes read and written per second by a device-to-device copy
  Report* report = nullptr;
};

// Bytes that one pass over has to exceed, so that a cache of the device holds little of them: six times the
// L2.
size_t cold_bytes(const Bench& bench);

// Each measures, prints and reports its rows.
void measure_copy(Bench* bench);  // sets copy_rate
void run_attend(const Bench& bench);
void run_prefill(const Bench& bench);
void run_encode(const Bench& bench);
void run_decode(const Bench& bench);
void run_merge(const Bench& bench);
void run_rotate(const Bench& bench);
void run_stream(const Bench& bench);
void run_carry(const Bench& bench);

}  // namespace quire::gpu
