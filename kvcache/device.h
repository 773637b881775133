// The device seam: memory, streams, events, copies, launches. Nothing else of a device is visible.
//
// A stream runs what it is given in order, asynchronously to the caller and to other streams. An event marks
// a point of a stream; waiting for it is the only way to order two streams. Work that uses another stream's
// results without an event between them may see old data.
//
// Invariants: buffers, streams and events must not outlive their device; memory given to copy or used by
// launched work must live until that work has run; destroying a stream first finishes its work; destroying an
// event is allowed at any time. Work must not throw (that ends the process) and must not synchronize with
// its own stream. Thread safety: all functions may be called from any thread; the order of work that two
// threads give to one stream is theirs to settle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>

#include "kvcache/status.h"

namespace quire {

class Event {
 public:
  virtual ~Event();
  // Ok: the work before the last record has run (or there was no record). kNotReady: it has not yet.
  virtual Status query() = 0;
  // Returns when the work before the last record has run.
  virtual Status synchronize() = 0;
};

class Stream {
 public:
  virtual ~Stream();
  virtual Status launch(std::function<void()> work) = 0;
  // The two ranges must not overlap; either may lie on the host or on the device.
  virtual Status copy(void* dst, const void* src, size_t bytes) = 0;
  // Marks the work given so far. An event holds its last record only.
  virtual Status record(Event& event) = 0;
  // What is given from here on runs after the event's last record. No effect if there was none.
  virtual Status wait(Event& event) = 0;
  // True when nothing is queued or running.
  virtual bool idle() = 0;
  // Returns when everything given so far has run.
  virtual Status synchronize() = 0;
};

class Device;

// Memory of a device, zeroed, aligned to at least 64 bytes.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(Device& device, uint8_t* data, size_t size) : device_(&device), data_(data), size_(size) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer() { reset(); }

  // Frees the memory; empty afterwards.
  void reset();

  uint8_t* data() const { return data_; }  // nullptr when empty
  size_t size() const { return size_; }

 private:
  Device* device_ = nullptr;
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

class Device {
 public:
  virtual ~Device();
  // bytes = 0 gives an empty buffer. Budgets are the caller's affair.
  virtual Result<DeviceBuffer> allocate(size_t bytes) = 0;
  virtual Result<std::unique_ptr<Stream>> create_stream() = 0;
  virtual Result<std::unique_ptr<Event>> create_event() = 0;
  virtual std::string_view name() const = 0;

 protected:
  friend class DeviceBuffer;
  virtual void deallocate(uint8_t* data, size_t bytes) = 0;
};

}  // namespace quire
