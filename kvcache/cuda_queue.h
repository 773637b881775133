// Work on one GPU in one order: a stream of our own, and the first error of what it was given; and points in
// a stream's work that others wait for.
//
// Work is given without asking each time; take_error and synchronize tell. Thread safety: none, but for
// select.
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <utility>

#include "kvcache/cuda_status.h"

namespace quire {

class CudaQueue {
 public:
  explicit CudaQueue(int device_index) : index_(device_index) {}
  ~CudaQueue() {
    if (stream_ == nullptr) return;
    (void)cudaStreamSynchronize(stream_);
    (void)cudaStreamDestroy(stream_);
  }
  CudaQueue(const CudaQueue&) = delete;
  CudaQueue& operator=(const CudaQueue&) = delete;

  // name: of the device, for messages.
  Status open(std::string name) {
    name_ = std::move(name);
    if (Status status = select(); !status.ok()) return status;
    return cuda_status(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
                       "creating a stream on " + name_);
  }
  // Makes the device the calling thread's.
  Status select() const { return cuda_status(cudaSetDevice(index_), "using " + name_); }
  cudaStream_t stream() const { return stream_; }

  void note(cudaError_t error) {
    if (error_ == cudaSuccess) error_ = error;
  }
  template <typename T>
  void up(T* to, const T* from, size_t count) {
    if (count > 0) note(cudaMemcpyAsync(to, from, count * sizeof(T), cudaMemcpyHostToDevice, stream_));
  }
  template <typename T>
  void down(T* to, const T* from, size_t count) {
    if (count > 0) note(cudaMemcpyAsync(to, from, count * sizeof(T), cudaMemcpyDeviceToHost, stream_));
  }
  Status take_error(const char* what) {
    return cuda_status(std::exchange(error_, cudaSuccess), what + (" on " + name_));
  }
  Status synchronize(const char* what) {
    note(cudaStreamSynchronize(stream_));
    return take_error(what);
  }

 private:
  const int index_;
  std::string name_;
  cudaStream_t stream_ = nullptr;
  cudaError_t error_ = cudaSuccess;
};

// A point in the work of a stream. Who waits for one that was never marked does not wait.
class CudaEvent {
 public:
  CudaEvent() = default;
  ~CudaEvent() {
    if (event_ != nullptr) (void)cudaEventDestroy(event_);
  }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  // On the calling thread's device.
  Status open() {
    return cuda_status(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "creating an event");
  }
  // Behind all that the stream has been given.
  cudaError_t mark(cudaStream_t stream) { return cudaEventRecord(event_, stream); }
  // Holds back what the stream is given from now on.
  cudaError_t hold(cudaStream_t stream) const { return cudaStreamWaitEvent(stream, event_, 0); }
  // Holds the calling thread.
  cudaError_t wait() const { return cudaEventSynchronize(event_); }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace quire
