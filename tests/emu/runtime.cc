// The runtime API: errors, devices, memory, streams, events, launches.
#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "tests/emu/block.h"
#include "tests/emu/control.h"
#include "tests/emu/library.h"
#include "tests/emu/limits.h"
#include "tests/emu/memory.h"
#include "tests/emu/stream.h"

struct CUstream_st {
  std::shared_ptr<emu::Queue> queue = std::make_shared<emu::Queue>();
};
struct CUevent_st {
  emu::Point point;
  double seconds = 0;  // when the work before it had run
  bool timed = false;
};

namespace emu {
namespace {

using Clock = std::chrono::steady_clock;

struct Runtime {
  std::recursive_mutex mutex;
  std::condition_variable_any progressed;
  Memory memory;
  std::map<int, CUstream_st> null_streams;   // by device
  std::vector<std::weak_ptr<Queue>> queues;  // of the other streams
  std::map<const void*, size_t> opted_in;    // kernel -> dynamic shared memory
  cudaError_t sticky = cudaSuccess;          // the device is lost: every call returns it
  cudaError_t last = cudaSuccess;
  std::string failure;
  std::vector<std::unique_ptr<Launch>> failed;  // kept: their threads have never ended
  Settings settings;
  uint64_t launches = 0;
  uint64_t waits = 0;
  std::map<std::pair<int, int>, bool> peers;
};

Runtime& runtime() {
  static Runtime the_runtime;
  return the_runtime;
}

thread_local int current_device = 0;

cudaError_t report(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) runtime().last = error;
  return error;
}

// What a call that has nothing else to complain about returns.
cudaError_t state() { return report(runtime().sticky); }

void run_until(const std::shared_ptr<Queue>& queue, uint64_t ticket, Lock& lock);

void run_one(Work& work, Lock& lock) {
  Runtime& rt = runtime();
  if (work.after.queue != nullptr) run_until(work.after.queue, work.after.ticket, lock);
  if (rt.sticky != cudaSuccess || !work.run) return;
  if (work.kind == WorkKind::kHost) {
    lock.unlock();
    work.run();
    lock.lock();
  } else if (work.kind == WorkKind::kMark) {
    work.run();
  } else {
    rt.memory.begin_device_work();
    work.run();
    rt.memory.end_device_work();
  }
}

// lock is held once when work of the host may run.
void run_until(const std::shared_ptr<Queue>& queue, uint64_t ticket, Lock& lock) {
  while (queue->done < ticket) {
    if (queue->busy) {
      runtime().progressed.wait(lock);
      continue;
    }
    queue->busy = true;
    Work work = std::move(queue->work.front());
    queue->work.pop_front();
    run_one(work, lock);
    work = {};
    queue->busy = false;
    ++queue->done;
    runtime().progressed.notify_all();
  }
}

std::shared_ptr<Queue> queue_of(cudaStream_t stream) {
  if (stream != nullptr) return stream->queue;
  CUstream_st& null_stream = runtime().null_streams[current_device];
  null_stream.queue->device = current_device;
  return null_stream.queue;
}

cudaError_t enqueue(cudaStream_t stream, Work work, Lock& lock) {
  if (runtime().sticky != cudaSuccess) return state();
  const std::shared_ptr<Queue> queue = queue_of(stream);
  queue->work.push_back(std::move(work));
  ++queue->issued;
  if (!settings().lazy_streams) run_until(queue, queue->issued, lock);
  return cudaSuccess;
}

cudaError_t synchronize(cudaStream_t stream, Lock& lock) {
  const std::shared_ptr<Queue> queue = queue_of(stream);
  run_until(queue, queue->issued, lock);
  return state();
}

cudaError_t synchronize_all(Lock& lock) {
  std::erase_if(runtime().queues, [](const auto& queue) { return queue.expired(); });
  const std::vector<std::weak_ptr<Queue>> queues = runtime().queues;
  for (const auto& weak : queues) {
    if (const std::shared_ptr<Queue> queue = weak.lock()) run_until(queue, queue->issued, lock);
  }
  return synchronize(nullptr, lock);
}

Lock locked() { return Lock(runtime().mutex); }

bool fits_kind(const void* dst, const void* src, cudaMemcpyKind kind) {
  const bool to = runtime().memory.on_device(dst);
  const bool from = runtime().memory.on_device(src);
  switch (kind) {
    case cudaMemcpyHostToHost:
      return !to && !from;
    case cudaMemcpyHostToDevice:
      return to && !from;
    case cudaMemcpyDeviceToHost:
      return !to && from;
    case cudaMemcpyDeviceToDevice:
      return to && from;
    case cudaMemcpyDefault:
      return true;
  }
  return false;
}

// Blocks of one thread of the host share its fibers.
void run_grid(Launch* launch) {
  thread_local Block block;
  block.run_grid(launch);
}

}  // namespace

Settings& settings() { return runtime().settings; }

const std::string& last_failure() { return runtime().failure; }

void reset_errors() {
  const Lock lock = locked();
  runtime().sticky = runtime().last = cudaSuccess;
  runtime().failure.clear();
}

void lose_device() {
  const Lock lock = locked();
  runtime().sticky = cudaErrorUnknown;
}

Counters counters() {
  const Lock lock = locked();
  const Runtime& rt = runtime();
  const Memory& memory = rt.memory;
  return {rt.launches, switch_count(),    memory.allocations(), memory.device_bytes(),
          rt.waits,    memory.pinnings(), memory.pinned_bytes()};
}

int launch_kernel(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, const void* kernel,
                  std::function<void()> body) {
  Lock lock = locked();
  Runtime& rt = runtime();
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const bool bad_block = threads == 0 || threads > kBlockThreads || block.z > 64;
  const bool bad_grid =
      grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7FFFFFFFU || grid.y > 65535 || grid.z > 65535;
  if (bad_block || bad_grid) return report(cudaErrorInvalidConfiguration);
  const auto opted_in = rt.opted_in.find(kernel);
  const size_t limit = opted_in == rt.opted_in.end() ? kSharedWithoutOptIn : opted_in->second;
  if (shared_bytes > limit) return report(cudaErrorInvalidValue);
  ++rt.launches;
  return enqueue(
      stream,
      {WorkKind::kDevice,
       [=, body = std::move(body)] {
         auto launch = std::make_unique<Launch>(Launch{grid, block, shared_bytes, body, false, {}});
         run_grid(launch.get());
         if (!launch->failed) return;
         runtime().sticky = cudaErrorLaunchFailure;
         runtime().failure = launch->failure;
         runtime().failed.push_back(std::move(launch));
       },
       {}},
      lock);
}

int run_library_work(cudaStream_t stream, std::function<void()> work) {
  Lock lock = locked();
  return enqueue(stream, {WorkKind::kDevice, std::move(work), {}}, lock);
}

}  // namespace emu

using emu::Lock;
using emu::locked;
using emu::report;
using emu::runtime;
using emu::WorkKind;

extern "C" {

// ---- devices ----

cudaError_t cudaGetDeviceCount(int* count) {
  const Lock lock = locked();
  *count = emu::settings().devices;
  return *count == 0 ? report(cudaErrorNoDevice) : cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = emu::current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  const Lock lock = locked();
  if (device < 0 || device >= emu::settings().devices) return report(cudaErrorInvalidDevice);
  emu::current_device = device;
  return emu::state();
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const Lock lock = locked();
  if (device < 0 || device >= emu::settings().devices) return report(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = emu::settings().capability;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(emu::shared_with_opt_in(emu::settings().capability));
      return cudaSuccess;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      return cudaSuccess;
  }
  return report(cudaErrorInvalidValue);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  const Lock lock = locked();
  if (device < 0 || device >= emu::settings().devices) return report(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "emulated");
  properties->totalGlobalMem = emu::settings().device_bytes;
  properties->major = emu::settings().capability;
  properties->multiProcessorCount = 4;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  const Lock lock = locked();
  const int devices = emu::settings().devices;
  if (device < 0 || peer < 0 || device >= devices || peer >= devices) return report(cudaErrorInvalidDevice);
  *can = device != peer ? 1 : 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned /*flags*/) {
  const Lock lock = locked();
  if (peer < 0 || peer >= emu::settings().devices || peer == emu::current_device) {
    return report(cudaErrorInvalidDevice);
  }
  bool& enabled = runtime().peers[{emu::current_device, peer}];
  if (enabled) return report(cudaErrorPeerAccessAlreadyEnabled);
  enabled = true;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  const Lock lock = locked();
  if (device < 0 || device >= emu::settings().devices) return report(cudaErrorInvalidDevice);
  *pool = nullptr;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t /*pool*/, cudaMemPoolAttr attribute, void* /*value*/) {
  return attribute == cudaMemPoolAttrReleaseThreshold ? cudaSuccess : report(cudaErrorInvalidValue);
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  const Lock lock = locked();
  *total_bytes = emu::settings().device_bytes;
  *free_bytes = *total_bytes - runtime().memory.device_bytes();
  return emu::state();
}

// ---- memory ----

cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t /*stream*/) {
  const Lock lock = locked();
  *data = nullptr;
  if (runtime().sticky != cudaSuccess) return emu::state();
  if (bytes == 0) return cudaSuccess;
  *data = runtime().memory.allocate_device(bytes, emu::current_device);
  return *data == nullptr ? report(cudaErrorMemoryAllocation) : cudaSuccess;
}
cudaError_t cudaMalloc(void** data, size_t bytes) { return cudaMallocAsync(data, bytes, nullptr); }
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  Lock lock = locked();
  if (data == nullptr) return cudaSuccess;
  if (runtime().sticky != cudaSuccess) {
    runtime().memory.free_device(data);  // the emulator's own memory must not leak with a lost device
    return emu::state();
  }
  if (!runtime().memory.on_device(data)) return report(cudaErrorInvalidValue);
  return emu::enqueue(stream, {WorkKind::kMark, [data] { runtime().memory.free_device(data); }, {}}, lock);
}
cudaError_t cudaFree(void* data) {
  Lock lock = locked();
  if (data == nullptr) return cudaSuccess;
  (void)emu::synchronize_all(lock);
  return runtime().memory.free_device(data) ? emu::state() : report(cudaErrorInvalidValue);
}
cudaError_t cudaMallocHost(void** data, size_t bytes) {
  const Lock lock = locked();
  *data = bytes == 0 ? nullptr : runtime().memory.allocate_host(bytes);
  return bytes > 0 && *data == nullptr ? report(cudaErrorMemoryAllocation) : cudaSuccess;
}
cudaError_t cudaFreeHost(void* data) {
  const Lock lock = locked();
  if (data == nullptr || runtime().memory.free_host(data)) return cudaSuccess;
  return report(cudaErrorInvalidValue);
}
cudaError_t cudaHostRegister(void* data, size_t bytes, unsigned /*flags*/) {
  const Lock lock = locked();
  if (runtime().sticky != cudaSuccess) return emu::state();
  if (data == nullptr || bytes == 0) return report(cudaErrorInvalidValue);
  if (!runtime().memory.can_pin(bytes)) return report(cudaErrorMemoryAllocation);
  return runtime().memory.register_host(data, bytes) ? cudaSuccess
                                                     : report(cudaErrorHostMemoryAlreadyRegistered);
}
cudaError_t cudaHostUnregister(void* data) {
  const Lock lock = locked();
  return runtime().memory.unregister_host(data) ? cudaSuccess : report(cudaErrorHostMemoryNotRegistered);
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data) {
  const Lock lock = locked();
  const emu::Memory& memory = runtime().memory;
  auto* address = const_cast<void*>(data);
  if (memory.on_device(data)) {
    *attributes = {cudaMemoryTypeDevice, memory.device_of(data), address, nullptr};
  } else if (memory.pinned(data)) {
    *attributes = {cudaMemoryTypeHost, 0, address, address};
  } else {
    *attributes = {cudaMemoryTypeUnregistered, -2, nullptr, address};
  }
  return emu::state();
}

cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  Lock lock = locked();
  const emu::Memory& memory = runtime().memory;
  if (!emu::fits_kind(dst, src, kind) || !memory.in_bounds(dst, bytes) || !memory.in_bounds(src, bytes)) {
    return report(cudaErrorInvalidValue);
  }
  return emu::enqueue(stream, {WorkKind::kDevice, [=] { std::memcpy(dst, src, bytes); }, {}}, lock);
}
cudaError_t cudaMemcpy(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(dst, src, bytes, kind, nullptr);
  return error == cudaSuccess ? cudaStreamSynchronize(nullptr) : error;
}
cudaError_t cudaMemcpy2DAsync(void* dst, size_t dst_pitch, const void* src, size_t src_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  Lock lock = locked();
  const emu::Memory& memory = runtime().memory;
  if (width == 0 || height == 0) return emu::state();
  const size_t rows = height - 1;
  if (!emu::fits_kind(dst, src, kind) || !memory.in_bounds(dst, rows * dst_pitch + width) ||
      !memory.in_bounds(src, rows * src_pitch + width) || dst_pitch < width || src_pitch < width) {
    return report(cudaErrorInvalidValue);
  }
  const auto copy = [=] {
    for (size_t row = 0; row < height; ++row) {
      std::memcpy(static_cast<char*>(dst) + row * dst_pitch, static_cast<const char*>(src) + row * src_pitch,
                  width);
    }
  };
  return emu::enqueue(stream, {WorkKind::kDevice, copy, {}}, lock);
}
cudaError_t cudaMemsetAsync(void* dst, int value, size_t bytes, cudaStream_t stream) {
  Lock lock = locked();
  if (!runtime().memory.on_device(dst) || !runtime().memory.in_bounds(dst, bytes)) {
    return report(cudaErrorInvalidValue);
  }
  return emu::enqueue(stream, {WorkKind::kDevice, [=] { std::memset(dst, value, bytes); }, {}}, lock);
}
cudaError_t cudaMemset(void* dst, int value, size_t bytes) {
  return cudaMemsetAsync(dst, value, bytes, nullptr);
}

// ---- streams and events ----

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned /*flags*/) {
  const Lock lock = locked();
  *stream = nullptr;
  if (runtime().sticky != cudaSuccess) return emu::state();
  *stream = new CUstream_st;
  (*stream)->queue->device = emu::current_device;
  runtime().queues.push_back((*stream)->queue);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock = locked();
  if (stream == nullptr) return report(cudaErrorInvalidResourceHandle);
  const cudaError_t error = emu::synchronize(stream, lock);
  delete stream;
  return error;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock = locked();
  ++runtime().waits;
  return emu::synchronize(stream, lock);
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const Lock lock = locked();
  const std::shared_ptr<emu::Queue> queue = emu::queue_of(stream);
  if (runtime().sticky != cudaSuccess) return emu::state();
  return queue->done == queue->issued ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned /*flags*/) {
  Lock lock = locked();
  if (event->point.queue == nullptr) return emu::state();
  return emu::enqueue(stream, {WorkKind::kMark, nullptr, event->point}, lock);
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  Lock lock = locked();
  return emu::enqueue(stream, {WorkKind::kHost, [=] { function(data); }, {}}, lock);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  const Lock lock = locked();
  *event = nullptr;
  if (runtime().sticky != cudaSuccess) return emu::state();
  *event = new CUevent_st;
  (*event)->timed = (flags & cudaEventDisableTiming) == 0;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Lock lock = locked();
  delete event;
  return emu::state();
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock = locked();
  const std::shared_ptr<emu::Queue> queue = emu::queue_of(stream);
  if (event->timed) {
    const cudaError_t error = emu::enqueue(
        stream,
        {WorkKind::kMark,
         [event] {
           event->seconds = std::chrono::duration<double>(emu::Clock::now().time_since_epoch()).count();
         },
         {}},
        lock);
    if (error != cudaSuccess) return error;
  }
  event->point = {queue, queue->issued};
  return emu::state();
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Lock lock = locked();
  if (event->point.queue != nullptr) emu::run_until(event->point.queue, event->point.ticket, lock);
  return emu::state();
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Lock lock = locked();
  if (runtime().sticky != cudaSuccess) return emu::state();
  const emu::Point& point = event->point;
  return point.queue == nullptr || point.queue->done >= point.ticket ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  const Lock lock = locked();
  if (!begin->timed || !end->timed) return report(cudaErrorInvalidResourceHandle);
  *milliseconds = static_cast<float>((end->seconds - begin->seconds) * 1e3);
  return emu::state();
}
cudaError_t cudaDeviceSynchronize() {
  Lock lock = locked();
  return emu::synchronize_all(lock);
}

// ---- launches and errors ----

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  const Lock lock = locked();
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<size_t>(value) > emu::shared_with_opt_in(emu::settings().capability)) {
    return report(cudaErrorInvalidValue);
  }
  runtime().opted_in[function] = static_cast<size_t>(value);
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  const Lock lock = locked();
  const cudaError_t error = runtime().last;
  runtime().last = runtime().sticky;
  return error;
}
cudaError_t cudaPeekAtLastError() {
  const Lock lock = locked();
  return runtime().last;
}
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    default:
      return "cudaError";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  const bool explained = error == cudaErrorLaunchFailure && !emu::last_failure().empty();
  return explained ? emu::last_failure().c_str() : cudaGetErrorName(error);
}
}
