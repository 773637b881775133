#include "kvcache/page_device.h"

namespace quire {

PageDevice::~PageDevice() = default;

}  // namespace quire
