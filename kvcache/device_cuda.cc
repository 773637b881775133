#include "kvcache/device_cuda.h"

#include <cuda_runtime_api.h>

#include <cstdint>
#include <list>
#include <mutex>
#include <string>

#include "kvcache/cuda_status.h"

namespace quire {

Status cuda_status(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return {};
  const std::string reason = what + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")";
  switch (error) {
    case cudaErrorNotReady:
      return {StatusCode::kNotReady, "work before the event is still queued or running"};
    case cudaErrorMemoryAllocation:
      (void)cudaGetLastError();  // has been reported: the next call is not to blame
      return {StatusCode::kOverBudget, reason + "; lower the device budget"};
    case cudaErrorInvalidValue:
    case cudaErrorInvalidDevice:
    case cudaErrorInvalidDevicePointer:
    case cudaErrorInvalidResourceHandle:
      (void)cudaGetLastError();
      return invalid(reason);
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorNotSupported:
      return {StatusCode::kUnsupported, reason};
    default:
      return {StatusCode::kDeviceLost, reason + "; close the cache and open it again in a new process"};
  }
}

namespace {

class CudaEvent final : public Event {
 public:
  explicit CudaEvent(cudaEvent_t event) : event_(event) {}
  ~CudaEvent() override { (void)cudaEventDestroy(event_); }

  Status query() override { return cuda_status(cudaEventQuery(event_), "asking for an event"); }
  Status synchronize() override { return cuda_status(cudaEventSynchronize(event_), "waiting for an event"); }
  cudaEvent_t handle() const { return event_; }

 private:
  const cudaEvent_t event_;
};

Status foreign_event() { return invalid("the event belongs to another kind of device than the stream"); }

// Functions of the host that a stream has yet to run. Those that a lost device never runs go with the list.
class HostWork {
 public:
  struct Piece {
    std::function<void()> run;
    HostWork* owner;
    std::list<Piece>::iterator self;
  };

  Piece* add(std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    pieces_.push_front({std::move(work), this, {}});
    pieces_.front().self = pieces_.begin();
    return &pieces_.front();
  }
  void remove(Piece* piece) {
    const std::lock_guard lock(mutex_);
    pieces_.erase(piece->self);
  }
  static void run(void* data) {
    auto* piece = static_cast<Piece*>(data);
    piece->run();
    piece->owner->remove(piece);
  }

 private:
  std::mutex mutex_;
  std::list<Piece> pieces_;
};

class CudaStream final : public Stream {
 public:
  CudaStream(cudaStream_t stream, bool owned) : stream_(stream), owned_(owned) {}
  ~CudaStream() override {
    (void)cudaStreamSynchronize(stream_);  // its work refers to host_work_
    if (owned_) (void)cudaStreamDestroy(stream_);
  }

  Status launch(std::function<void()> work) override {
    if (!work) return invalid("launch was given an empty function; give it one to call");
    HostWork::Piece* piece = host_work_.add(std::move(work));
    const cudaError_t error = cudaLaunchHostFunc(stream_, &HostWork::run, piece);
    if (error != cudaSuccess) host_work_.remove(piece);
    return cuda_status(error, "giving work to a stream");
  }

  Status copy(void* dst, const void* src, size_t bytes) override {
    if (bytes == 0) return {};
    const std::string what = "copy of " + std::to_string(bytes) + " bytes";
    if (dst == nullptr || src == nullptr) return invalid(what + " from or to a null pointer");
    return cuda_status(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, stream_), what);
  }

  Status record(Event& event) override {
    const auto* cuda_event = dynamic_cast<const CudaEvent*>(&event);
    if (cuda_event == nullptr) return foreign_event();
    return cuda_status(cudaEventRecord(cuda_event->handle(), stream_), "recording an event");
  }

  Status wait(Event& event) override {
    const auto* cuda_event = dynamic_cast<const CudaEvent*>(&event);
    if (cuda_event == nullptr) return foreign_event();
    return cuda_status(cudaStreamWaitEvent(stream_, cuda_event->handle(), 0), "waiting for an event");
  }

  bool idle() override { return cudaStreamQuery(stream_) != cudaErrorNotReady; }

  Status synchronize() override {
    return cuda_status(cudaStreamSynchronize(stream_), "waiting for a stream");
  }

 private:
  const cudaStream_t stream_;
  const bool owned_;
  HostWork host_work_;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(int index, cudaStream_t memory_stream)
      : index_(index), memory_stream_(memory_stream), name_("cuda:" + std::to_string(index)) {}
  ~CudaDevice() override { (void)cudaStreamDestroy(memory_stream_); }

  // Freed memory stays in the pool, so that the next allocation of a size costs no call to the driver.
  Status keep_freed_memory() const {
    cudaMemPool_t pool = nullptr;
    uint64_t threshold = UINT64_MAX;
    cudaError_t error = cudaDeviceGetDefaultMemPool(&pool, index_);
    if (error == cudaSuccess) {
      error = cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold);
    }
    return cuda_status(error, "setting up the memory pool of " + name_);
  }

  Result<DeviceBuffer> allocate(size_t bytes) override {
    if (bytes == 0) return DeviceBuffer();
    const std::string what = "allocating " + std::to_string(bytes) + " bytes on " + name_;
    if (Status status = select(); !status.ok()) return status;
    void* data = nullptr;
    cudaError_t error = cudaMallocAsync(&data, bytes, memory_stream_);
    if (error != cudaSuccess) return cuda_status(error, what);
    error = cudaMemsetAsync(data, 0, bytes, memory_stream_);
    if (error == cudaSuccess) error = cudaStreamSynchronize(memory_stream_);
    DeviceBuffer buffer(*this, static_cast<uint8_t*>(data), bytes);
    if (error != cudaSuccess) return cuda_status(error, what);
    return buffer;
  }

  Result<std::unique_ptr<Stream>> create_stream() override {
    if (Status status = select(); !status.ok()) return status;
    cudaStream_t stream = nullptr;
    const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (error != cudaSuccess) return cuda_status(error, "creating a stream on " + name_);
    return std::unique_ptr<Stream>(std::make_unique<CudaStream>(stream, true));
  }

  Result<std::unique_ptr<Event>> create_event() override {
    if (Status status = select(); !status.ok()) return status;
    cudaEvent_t event = nullptr;
    const cudaError_t error =
        cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync);
    if (error != cudaSuccess) return cuda_status(error, "creating an event on " + name_);
    return std::unique_ptr<Event>(std::make_unique<CudaEvent>(event));
  }

  std::string_view name() const override { return name_; }

  // Calls of this thread go to this device.
  Status select() const { return cuda_status(cudaSetDevice(index_), "using " + name_); }

 protected:
  // What streams still read must have been synchronized with: device.h asks it of the caller.
  void deallocate(uint8_t* data, size_t /*bytes*/) override {
    (void)cudaFreeAsync(data, memory_stream_);
    (void)cudaStreamSynchronize(memory_stream_);
  }

 private:
  const int index_;
  const cudaStream_t memory_stream_;
  const std::string name_;
};

}  // namespace

Result<std::unique_ptr<Device>> create_cuda_device(const CudaDeviceOptions& options) {
  int count = 0;
  if (Status status = cuda_status(cudaGetDeviceCount(&count), "looking for GPUs"); !status.ok())
    return status;
  const std::string name = "cuda:" + std::to_string(options.index);
  if (options.index < 0 || options.index >= count) {
    return Status(StatusCode::kUnsupported, name + ": this machine has " + std::to_string(count) +
                                                " CUDA device(s), counted from 0; name one of them");
  }
  int major = 0;
  cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, options.index);
  if (error != cudaSuccess) return cuda_status(error, "asking " + name);
  if (major < 8) {
    return Status(StatusCode::kUnsupported,
                  name + " has compute capability " + std::to_string(major) + ".x; 8.0 is needed");
  }
  error = cudaSetDevice(options.index);
  cudaStream_t memory_stream = nullptr;
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&memory_stream, cudaStreamNonBlocking);
  if (error != cudaSuccess) return cuda_status(error, "opening " + name);
  auto device = std::make_unique<CudaDevice>(options.index, memory_stream);
  if (Status status = device->keep_freed_memory(); !status.ok()) return status;
  return std::unique_ptr<Device>(std::move(device));
}

Result<std::unique_ptr<Stream>> adopt_cuda_stream(Device& device, void* stream) {
  if (dynamic_cast<CudaDevice*>(&device) == nullptr) {
    return invalid("a CUDA stream was handed to the device " + std::string(device.name()));
  }
  return std::unique_ptr<Stream>(std::make_unique<CudaStream>(static_cast<cudaStream_t>(stream), false));
}

Status enable_cuda_peer(Device& device, int peer_index) {
  auto* cuda_device = dynamic_cast<CudaDevice*>(&device);
  if (cuda_device == nullptr)
    return invalid(std::string(device.name()) + " is no CUDA device and has no peers");
  if (Status status = cuda_device->select(); !status.ok()) return status;
  const cudaError_t error = cudaDeviceEnablePeerAccess(peer_index, 0);
  if (error == cudaErrorPeerAccessAlreadyEnabled) {
    (void)cudaGetLastError();
    return {};
  }
  return cuda_status(
      error, "peer access from " + std::string(device.name()) + " to cuda:" + std::to_string(peer_index));
}

}  // namespace quire
