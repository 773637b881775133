// Memory as the runtime knows it: device memory between guard pages, out of reach while no device work runs;
// pinned host memory. Thread safety: the caller holds the runtime's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace emu {

class Memory {
 public:
  // nullptr when the device has no room. The bytes are 0xFF.
  void* allocate_device(size_t bytes, int device);
  bool free_device(void* data);
  bool can_pin(size_t bytes) const;
  void* allocate_host(size_t bytes);  // nullptr when no more can be pinned
  bool free_host(void* data);
  bool register_host(void* data, size_t bytes);  // false when a part of it is already
  bool unregister_host(void* data);

  bool on_device(const void* at) const { return find_device(at) != nullptr; }
  int device_of(const void* at) const;
  bool pinned(const void* at) const;
  // False when a range begins in one device allocation and ends outside.
  bool in_bounds(const void* at, size_t bytes) const;

  // Device memory may be touched between these; they nest.
  void begin_device_work();
  void end_device_work();

  size_t device_bytes() const { return device_bytes_; }
  size_t allocations() const { return device_.size(); }
  size_t pinned_bytes() const { return pinned_bytes_; }
  uint64_t pinnings() const { return pinnings_; }

 private:
  struct Allocation {
    char* mapped;  // whole pages, guards not counted
    size_t mapped_bytes;
    size_t bytes;
    int device;
  };
  const Allocation* find_device(const void* at) const;
  void protect(int protection);
  void add_pinned(const void* data, size_t bytes);
  bool remove_pinned(const void* data);

  std::map<const char*, Allocation> device_;
  std::map<const char*, size_t> pinned_;
  size_t device_bytes_ = 0;
  size_t pinned_bytes_ = 0;
  uint64_t pinnings_ = 0;
  int depth_ = 0;
};

}  // namespace emu
