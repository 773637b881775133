// Pages from pinned host memory to the device, against one plain copy over the same link.
#include <algorithm>
#include <functional>
#include <numeric>
#include <random>

#include "bench/gpu/pages.h"

namespace quire::gpu {
namespace {

constexpr double kStreamGoal = 0.90;
constexpr size_t kHostBytes = size_t{256} << 20;

}  // namespace

void run_stream(const Bench& bench) {
  const PinnedMemory host(kHostBytes);
  std::fill_n(host.data(), kHostBytes, std::byte{0x5A});
  const DeviceMemory<uint8_t> device(kHostBytes);
  const Time plain = time_calls(bench.stream, bench.options.batches, [&](uint32_t) {
    return cudaMemcpyAsync(device.data(), host.data(), kHostBytes, cudaMemcpyHostToDevice, bench.stream);
  });
  const Row link{"stream", "one copy of 256 MiB", plain, static_cast<double>(kHostBytes), "B", 0, "", 0};
  bench.report->add(link);
  for (const CodecPair& codecs : bench.options.codecs) {
    const size_t bytes = page_layout(page_kind(bench, codecs)).bytes;
    std::vector<size_t> from(kHostBytes / bytes);
    std::iota(from.begin(), from.end(), size_t{0});
    std::mt19937 random(2);
    std::ranges::shuffle(from, random);
    const auto add = [&](const char* how, double goal, const std::function<cudaError_t(uint32_t)>& copy) {
      bench.report->add({"stream", codecs.name() + " pages of " + std::to_string(bytes) + " B, " + how,
                         time_calls(bench.stream, bench.options.batches, copy),
                         static_cast<double>(from.size() * bytes), "B", link.rate(), "link", goal});
    };
    std::vector<cuda::PageCopy> copies(from.size());
    for (size_t i = 0; i < from.size(); ++i) {
      copies[i] = {reinterpret_cast<const uint8_t*>(host.data()) + from[i] * bytes,
                   device.data() + i * bytes};
    }
    const DeviceMemory<cuda::PageCopy> device_copies(copies);
    add("one launch", kStreamGoal, [&](uint32_t) {
      return cuda::copy_pages(
          {device_copies.data(), static_cast<uint32_t>(copies.size()), static_cast<uint32_t>(bytes)},
          bench.stream);
    });
    add("copy by copy", 0, [&](uint32_t) {
      for (const cuda::PageCopy& copy : copies) {
        const cudaError_t error =
            cudaMemcpyAsync(copy.to, copy.from, bytes, cudaMemcpyHostToDevice, bench.stream);
        if (error != cudaSuccess) return error;
      }
      return cudaSuccess;
    });
  }
}

}  // namespace quire::gpu
