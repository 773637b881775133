// Attention: decode over a long context against the copy's rate, prefill against the peak of the int8
// instruction.
#include <algorithm>

#include "bench/gpu/attend_call.h"
#include "bench/gpu/device_work.h"
#include "bench/gpu/pages.h"

namespace quire::gpu {
namespace {

constexpr double kDecodeGoal = 0.80;   // of 4-bit codecs at 4 and 8 query heads
constexpr double kPrefillGoal = 0.50;  // of the int8 peak
constexpr uint32_t kPrefillTokens = 16384;
constexpr uint32_t kPrefillQueries = 512;

Time time_decode(const Bench& bench, const FoldedPages& pages, uint32_t sets, const AttendCall& call,
                 uint32_t batches) {
  return time_calls(bench.stream, batches, [&](uint32_t i) {
    const cudaError_t error = cuda::attend_decode(call.over(pages.refs(i % sets)), bench.stream);
    return error != cudaSuccess ? error : call.merge(bench.stream);
  });
}

uint32_t run_for(const Bench& bench, uint32_t pages, uint32_t blocks_per_processor) {
  const auto processors = static_cast<uint32_t>(bench.device.multiProcessorCount);
  const uint32_t runs = std::max(processors * blocks_per_processor / bench.options.kv_heads, 1U);
  return (pages + runs - 1) / runs;
}

// The fastest length of a run among those that give every multiprocessor a few blocks.
uint32_t best_run(const Bench& bench, const FoldedPages& pages, uint32_t sets, uint32_t rows) {
  uint32_t best = pages.pages();
  double least = 0;
  for (const uint32_t blocks : {1U, 2U, 3U, 4U, 5U, 6U, 8U, 12U}) {
    const uint32_t run = run_for(bench, pages.pages(), blocks);
    const double ms = time_decode(bench, pages, sets, AttendCall(bench, pages, rows, run), 3).ms;
    if (least == 0 || ms < least) {
      best = run;
      least = ms;
    }
  }
  return best;
}

bool has_decode_goal(const CodecPair& codecs, uint32_t group) {
  return find_codec(codecs.key)->bits == 4 && find_codec(codecs.value)->bits == 4 &&
         (group == 4 || group == 8);
}

void decode_case(const Bench& bench, const CodecPair& codecs, uint32_t tokens,
                 const std::vector<uint32_t>& groups) {
  const size_t of_one =
      size_t{tokens / bench.options.shape.tokens} * page_layout(page_kind(bench, codecs)).bytes;
  const auto sets = static_cast<uint32_t>(cold_bytes(bench) / of_one + 1);
  const FoldedPages pages(bench, codecs, tokens, sets);
  for (const uint32_t group : groups) {
    const uint32_t run =
        bench.options.once ? run_for(bench, pages.pages(), 3) : best_run(bench, pages, sets, group);
    const AttendCall call(bench, pages, group, run);
    if (bench.options.once) {
      require(cuda::attend_decode(call.over(pages.refs(0)), bench.stream), "attending");
      require(cudaStreamSynchronize(bench.stream), "attending");
      continue;
    }
    bench.report->add({"attend",
                       codecs.name() + " G=" + std::to_string(group) + " " + std::to_string(tokens) +
                           " run " + std::to_string(run),
                       time_decode(bench, pages, sets, call, bench.options.batches),
                       static_cast<double>(pages.section_bytes()), "B", bench.copy_rate, "copy",
                       has_decode_goal(codecs, group) ? kDecodeGoal : 0});
  }
}

double peak_rate(const Bench& bench, Peak peak, const char* name) {
  const auto blocks = static_cast<uint32_t>(bench.device.multiProcessorCount) * 4;
  constexpr uint32_t kRounds = 2000;
  const DeviceMemory<uint32_t> sink(1);
  const Time time = time_calls(bench.stream, bench.options.batches, [&](uint32_t) {
    return multiply(peak, blocks, kRounds, sink.data(), bench.stream);
  });
  Row row{"peak", name, time, peak_ops(peak, blocks, kRounds), "op", 0, "", 0};
  bench.report->add(row);
  return row.rate();
}

}  // namespace

void run_attend(const Bench& bench) {
  for (const CodecPair& codecs : bench.options.codecs)
    decode_case(bench, codecs, bench.options.tokens, bench.options.groups);
  if (bench.options.once) return;
  for (const CodecPair& codecs : bench.options.codecs) {
    if (has_decode_goal(codecs, 4)) decode_case(bench, codecs, 4 * bench.options.tokens, {4, 8});
  }
}

Time time_prefill(const Bench& bench, const FoldedPages& pages, const AttendCall& call, uint32_t batches) {
  return time_calls(bench.stream, batches, [&](uint32_t) {
    const cudaError_t error = cuda::attend_prefill(call.over(pages.refs(0)), bench.stream);
    return error != cudaSuccess ? error : call.merge(bench.stream);
  });
}

// The fastest of a few: how evenly blocks fill the multiprocessors depends on the rows of a kernel's tile.
uint32_t best_prefill_run(const Bench& bench, const FoldedPages& pages, uint32_t rows) {
  uint32_t best = pages.pages();
  double least = 0;
  for (const uint32_t runs : {1U, 2U, 3U, 4U, 6U}) {
    const uint32_t run = (pages.pages() + runs - 1) / runs;
    const double ms = time_prefill(bench, pages, AttendCall(bench, pages, rows, run), 3).ms;
    if (least == 0 || ms < least) {
      best = run;
      least = ms;
    }
  }
  return best;
}

void run_prefill(const Bench& bench) {
  const double int8_peak = peak_rate(bench, Peak::kInt8, "int8 mma.m16n8k32");
  (void)peak_rate(bench, Peak::kBf16, "bf16 mma.m16n8k16");
  constexpr uint32_t kGroup = 4;
  for (const CodecPair& codecs : bench.options.codecs) {
    const FoldedPages pages(bench, codecs, kPrefillTokens, 1);
    const uint32_t run = best_prefill_run(bench, pages, kGroup * kPrefillQueries);
    const AttendCall call(bench, pages, kGroup * kPrefillQueries, run);
    const Time time = time_prefill(bench, pages, call, bench.options.batches);
    const double ops =
        4.0 * kGroup * kPrefillQueries * bench.options.kv_heads * kPrefillTokens * bench.options.shape.dim;
    bench.report->add({"prefill", codecs.name() + " 512 x G=4 over 16384 run " + std::to_string(run), time,
                       ops, "op", int8_peak, "int8 peak",
                       find_codec(codecs.key)->bits == 4 ? kPrefillGoal : 0});
  }
}

}  // namespace quire::gpu
