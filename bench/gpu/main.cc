// quire-gpu: how fast the CUDA kernels are on the GPU of this machine, against its own copies. README.md says
// what the columns mean. Ends with 1 when there is no GPU, 2 for bad input.
#include <cstdio>

#include "bench/gpu/bench.h"

namespace quire::gpu {
namespace {

cudaDeviceProp find_device(int index) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count <= index) {
    std::fprintf(
        stderr, "quire-gpu: there is no GPU %d on this machine (%s); run it where nvidia-smi lists one\n",
        index, error == cudaSuccess ? (std::to_string(count) + " found").c_str() : cudaGetErrorString(error));
    std::exit(1);
  }
  require(cudaSetDevice(index), "choosing the device");
  cudaDeviceProp device{};
  require(cudaGetDeviceProperties(&device, index), "asking for the device's properties");
  return device;
}

nlohmann::json facts_of(const Options& options, const cudaDeviceProp& device) {
  int driver = 0;
  require(cudaDriverGetVersion(&driver), "asking for the driver's version");
  return {{"device", device.name},
          {"compute_capability", std::to_string(device.major) + "." + std::to_string(device.minor)},
          {"multiprocessors", device.multiProcessorCount},
          {"l2_bytes", device.l2CacheSize},
          {"cuda_driver", driver},
          {"tokens", options.tokens},
          {"kv_heads", options.kv_heads},
          {"head_dim", options.shape.dim},
          {"page_tokens", options.shape.tokens},
          {"bytes", "attend: sections read; encode, decode, merge, rotate, copy: read and written"}};
}

int run(int argc, char** argv) {
  Bench bench;
  bench.options = parse_options(argc, argv);
  bench.device = find_device(bench.options.device);
  require(cudaStreamCreateWithFlags(&bench.stream, cudaStreamNonBlocking), "making a stream");
  Report report(facts_of(bench.options, bench.device));
  bench.report = &report;
  if (bench.options.once) {
    run_attend(bench);
    return 0;
  }
  measure_copy(&bench);
  const std::pair<const char*, void (*)(const Bench&)> cases[] = {
      {"encode", run_encode}, {"decode", run_decode}, {"merge", run_merge}, {"rotate", run_rotate},
      {"attend", run_attend}, {"stream", run_stream}, {"carry", run_carry}, {"prefill", run_prefill}};
  for (const auto& [name, run_case] : cases) {
    if (bench.options.wants(name)) run_case(bench);
  }
  (void)report.print_goals();
  require(cudaStreamDestroy(bench.stream), "destroying a stream");
  if (!bench.options.json.empty() && !report.write(bench.options.json)) {
    std::fprintf(stderr, "quire-gpu: cannot write %s; give --json a file that can be written\n",
                 bench.options.json.c_str());
    return 2;
  }
  return 0;
}

}  // namespace
}  // namespace quire::gpu

int main(int argc, char** argv) { return quire::gpu::run(argc, argv); }
