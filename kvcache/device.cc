#include "kvcache/device.h"

namespace quire {

Event::~Event() = default;
Stream::~Stream() = default;
Device::~Device() = default;

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : device_(other.device_),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  if (this == &other) return *this;
  reset();
  device_ = other.device_;
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  return *this;
}

void DeviceBuffer::reset() {
  if (data_ == nullptr) return;
  device_->deallocate(data_, size_);
  data_ = nullptr;
  size_ = 0;
}

}  // namespace quire
