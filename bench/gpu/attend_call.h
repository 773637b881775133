// One call of attention: queries, and the room for partials and outputs. Thread safety: none.
#pragma once

#include <algorithm>

#include "bench/gpu/device_work.h"
#include "bench/gpu/pages.h"

namespace quire::gpu {

class AttendCall {
 public:
  AttendCall(const Bench& bench, const FoldedPages& pages, uint32_t rows, uint32_t run)
      : q_(size_t{bench.options.kv_heads} * rows * bench.options.shape.dim),
        o_(q_.bytes() / sizeof(float) * ((pages.pages() + run - 1) / run)),
        m_(o_.bytes() / sizeof(float) / bench.options.shape.dim),
        l_(o_.bytes() / sizeof(float) / bench.options.shape.dim),
        out_(q_.bytes() / sizeof(float)),
        scratch_(rows < kLeastPrefillRows
                     ? 1
                     : std::min(kScratchBytes,
                                cuda::prefill_scratch_bytes(bench.options.shape, bench.options.kv_heads,
                                                            (pages.pages() + run - 1) / run, run))),
        args_{} {
    require(fill_normal(q_.data(), q_.bytes() / sizeof(float), 77, bench.stream), "making queries");
    args_.format = pages.format();
    args_.section_stride = args_.section_count = pages.pages();
    args_.run_sections = run;
    args_.kv_heads = bench.options.kv_heads;
    args_.q = q_.data();
    args_.rows = rows;
    args_.partials = {o_.data(), m_.data(), l_.data()};
    args_.scratch = scratch_.data();
    args_.scratch_bytes = scratch_.bytes();
  }
  cuda::AttendArgs over(const SectionRef* refs) const {
    cuda::AttendArgs args = args_;
    args.sections = refs;
    return args;
  }
  cudaError_t merge(cudaStream_t stream) const {
    return cuda::merge_partials({args_.partials, cuda::run_count(args_), args_.kv_heads, args_.rows,
                                 args_.format.shape.dim, out_.data(), nullptr, false},
                                stream);
  }

 private:
  static constexpr uint32_t kLeastPrefillRows = 64;
  static constexpr size_t kScratchBytes = size_t{40} << 20;  // of unpacked sections, as the engine has it

  DeviceMemory<float> q_;
  DeviceMemory<float> o_;
  DeviceMemory<float> m_;
  DeviceMemory<float> l_;
  DeviceMemory<float> out_;
  DeviceMemory<uint8_t> scratch_;
  cuda::AttendArgs args_;
};

}  // namespace quire::gpu
