#include "bindings/cuda.h"

#include <cuda_runtime_api.h>

#include "kvcache/page_device_cuda.h"

namespace quire {

uint32_t count_cuda_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return static_cast<uint32_t>(count);
  (void)cudaGetLastError();
  return 0;
}

Result<PageDeviceFactory> cuda_page_device_factory(uint32_t index) {
  return PageDeviceFactory([index](const PageDeviceSetup& setup) {
    return create_cuda_page_device(setup, {.index = static_cast<int>(index)});
  });
}

}  // namespace quire
