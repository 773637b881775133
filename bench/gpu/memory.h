// Memory of the device and pinned memory of the host, owned. A failed call ends the program with one
// sentence: figures after it would mean nothing. Thread safety: none, the program has one thread.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <vector>

namespace quire::gpu {

// Ends the program with exit status 1 unless `error` is cudaSuccess. what: what was being done.
void require(cudaError_t error, const char* what);

namespace detail {
void* allocate_device(size_t bytes);
void* allocate_pinned(size_t bytes);
void copy_bytes(void* to, const void* from, size_t bytes);
struct FreeDevice {
  void operator()(void* memory) const { (void)cudaFree(memory); }
};
struct FreePinned {
  void operator()(void* memory) const { (void)cudaFreeHost(memory); }
};
}  // namespace detail

// n elements of uninitialised memory; `from` is copied into it.
template <typename T>
class DeviceMemory {
 public:
  explicit DeviceMemory(size_t n) : memory_(detail::allocate_device(n * sizeof(T))), n_(n) {}
  explicit DeviceMemory(const std::vector<T>& from) : DeviceMemory(from.size()) {
    detail::copy_bytes(data(), from.data(), n_ * sizeof(T));
  }
  T* data() const { return static_cast<T*>(memory_.get()); }
  size_t bytes() const { return n_ * sizeof(T); }
  std::vector<T> host() const {
    std::vector<T> values(n_);
    detail::copy_bytes(values.data(), data(), bytes());
    return values;
  }

 private:
  std::unique_ptr<void, detail::FreeDevice> memory_;
  size_t n_;
};

// Page-locked host memory.
class PinnedMemory {
 public:
  explicit PinnedMemory(size_t bytes) : memory_(detail::allocate_pinned(bytes)) {}
  std::byte* data() const { return static_cast<std::byte*>(memory_.get()); }

 private:
  std::unique_ptr<void, detail::FreePinned> memory_;
};

}  // namespace quire::gpu
