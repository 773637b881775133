// What stands in for the device in a build without CUDA.
#include "bench/qwen3/compute.h"
#include "bench/qwen3/error.h"

namespace quire::qwen3 {

std::unique_ptr<Compute> make_cuda_compute(const Model& /*model*/, ThreadPool& /*pool*/, uint32_t /*index*/) {
  throw Error("the decoder was built without CUDA; build it with QUIRE_CUDA=ON, or compute on the CPU");
}

}  // namespace quire::qwen3
