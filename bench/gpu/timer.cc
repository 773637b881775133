#include "bench/gpu/timer.h"

#include <algorithm>
#include <vector>

#include "bench/gpu/memory.h"

namespace quire::gpu {
namespace {

constexpr double kBatchMs = 1.0;
constexpr uint32_t kMostCalls = 64;

class Event {
 public:
  Event() { require(cudaEventCreate(&event_), "making an event"); }
  ~Event() { (void)cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream) const { require(cudaEventRecord(event_, stream), "recording an event"); }
  double ms_since(const Event& start) const {
    require(cudaEventSynchronize(event_), "the work before an event");
    float ms = 0;
    require(cudaEventElapsedTime(&ms, start.event_, event_), "reading an event");
    return ms;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace

Time time_calls(cudaStream_t stream, uint32_t batches, const std::function<cudaError_t(uint32_t)>& enqueue) {
  const Event start;
  const Event stop;
  uint32_t next = 0;
  const auto batch_ms = [&](uint32_t calls) {
    start.record(stream);
    for (uint32_t i = 0; i < calls; ++i) require(enqueue(next++), "a launch");
    stop.record(stream);
    return stop.ms_since(start);
  };
  (void)batch_ms(1);
  const double once = std::max(batch_ms(2) / 2, 1e-4);
  const auto calls = static_cast<uint32_t>(std::clamp(kBatchMs / once + 1, 1.0, double{kMostCalls}));
  (void)batch_ms(calls);
  std::vector<double> times(batches);
  for (double& time : times) time = batch_ms(calls) / calls;
  std::ranges::sort(times);
  const double median = times[batches / 2];
  return {median, (times[batches * 3 / 4] - times[batches / 4]) / median};
}

}  // namespace quire::gpu
