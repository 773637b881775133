// Waves of a prefill whose pages come up from pinned host memory while those of the wave before are attended,
// by two streams and two sets of frames as kvcache/page_carrier_cuda.h has them: against what a wave would
// take if the shorter of the two cost nothing.
#include <algorithm>

#include "bench/gpu/attend_call.h"

namespace quire::gpu {
namespace {

constexpr uint32_t kWavePages = 512;
constexpr uint32_t kRows = 2048;  // of a kv head
constexpr uint32_t kSets = 2;

class Carrier {
 public:
  Carrier(const Bench& bench, const FoldedPages& frames)
      : reader_(bench.stream),
        page_bytes_(frames.bytes().size() / kSets / kWavePages),
        host_(frames.bytes().size()) {
    require(cudaMemcpy(host_.data(), frames.bytes().data(), frames.bytes().size(), cudaMemcpyDeviceToHost),
            "copying pages to the host");
    for (uint32_t set = 0; set < kSets; ++set) {
      std::vector<cuda::PageCopy> copies;
      for (uint32_t page = 0; page < kWavePages; ++page) {
        const size_t at = frames.offset(set, page);
        copies.push_back({reinterpret_cast<const uint8_t*>(host_.data()) + at, frames.bytes().data() + at});
      }
      copies_.emplace_back(copies);
      require(cudaEventCreateWithFlags(&copied_[set], cudaEventDisableTiming), "making an event");
      require(cudaEventCreateWithFlags(&read_[set], cudaEventDisableTiming), "making an event");
    }
    require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  }
  ~Carrier() {
    (void)cudaStreamDestroy(stream_);
    for (uint32_t set = 0; set < kSets; ++set) {
      (void)cudaEventDestroy(copied_[set]);
      (void)cudaEventDestroy(read_[set]);
    }
  }
  Carrier(const Carrier&) = delete;
  Carrier& operator=(const Carrier&) = delete;

  double bytes() const { return static_cast<double>(page_bytes_) * kWavePages; }
  cudaError_t copy(uint32_t set, cudaStream_t stream) const {
    return cuda::copy_pages({copies_[set].data(), kWavePages, static_cast<uint32_t>(page_bytes_)}, stream);
  }
  // What is given to the reader behind this reads the set.
  void bring(uint32_t set) const {
    require(cudaStreamWaitEvent(stream_, read_[set], 0), "waiting for a set of frames");
    require(copy(set, stream_), "carrying pages");
    require(cudaEventRecord(copied_[set], stream_), "carrying pages");
    require(cudaStreamWaitEvent(reader_, copied_[set], 0), "waiting for pages");
  }
  void release(uint32_t set) const { require(cudaEventRecord(read_[set], reader_), "releasing frames"); }

 private:
  cudaStream_t reader_;
  cudaStream_t stream_ = nullptr;
  size_t page_bytes_;
  PinnedMemory host_;
  std::vector<DeviceMemory<cuda::PageCopy>> copies_;  // of each set
  cudaEvent_t copied_[kSets] = {};
  cudaEvent_t read_[kSets] = {};
};

void carry_case(const Bench& bench, const CodecPair& codecs) {
  const FoldedPages frames(bench, codecs, kWavePages * bench.options.shape.tokens, kSets);
  const Carrier carrier(bench, frames);
  const AttendCall call(bench, frames, kRows, kWavePages);
  const auto attend = [&](uint32_t set) {
    const cudaError_t error = cuda::attend_prefill(call.over(frames.refs(set)), bench.stream);
    return error != cudaSuccess ? error : call.merge(bench.stream);
  };
  const uint32_t batches = bench.options.batches;
  const Time copying =
      time_calls(bench.stream, batches, [&](uint32_t i) { return carrier.copy(i % kSets, bench.stream); });
  const Time attending = time_calls(bench.stream, batches, [&](uint32_t i) { return attend(i % kSets); });
  const Time both = time_calls(bench.stream, batches, [&](uint32_t i) {
    carrier.bring(i % kSets);
    const cudaError_t error = attend(i % kSets);
    carrier.release(i % kSets);
    return error;
  });
  const double bytes = carrier.bytes();
  const std::string wave = codecs.name() + " 512 pages for 2048 rows";
  bench.report->add({"carry", wave + ", copied", copying, bytes, "B", 0, "", 0});
  bench.report->add({"carry", wave + ", attended", attending, bytes, "B", 0, "", 0});
  bench.report->add({"carry", wave + ", in turns", both, bytes, "B",
                     bytes / (std::max(copying.ms, attending.ms) * 1e-3), "longer alone", 0});
}

}  // namespace

void run_carry(const Bench& bench) {
  for (const CodecPair& codecs : bench.options.codecs) carry_case(bench, codecs);
}

}  // namespace quire::gpu
