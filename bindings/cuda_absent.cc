#include "bindings/cuda.h"

namespace quire {

uint32_t count_cuda_devices() { return 0; }

Result<PageDeviceFactory> cuda_page_device_factory(uint32_t /*index*/) {
  return Status(StatusCode::kUnsupported,
                "this library was built without CUDA: build it with QUIRE_CUDA=ON, or leave the device to "
                "the CPU");
}

}  // namespace quire
