#include "kvcache/pinned_memory_cuda.h"

#include <cuda_runtime_api.h>

#include <algorithm>

#include "kvcache/os_memory.h"

namespace quire {
namespace {

size_t bytes_of(std::span<uint8_t> chunk) { return chunk.size(); }

}  // namespace

PinnedMemory::~PinnedMemory() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  for (const std::span<uint8_t> spare : spares_) (void)cudaFreeHost(spare.data());
}

void PinnedMemory::prepare(Budget& host_budget) {
  if (host_budget.limit() / kSpareShare < kSpareBytes || !charge_.take(host_budget, kSpareBytes).ok()) return;
  limit_ = kSpareBytes;
  thread_ = std::thread([this] { work_off_orders(); });
}

uint8_t* PinnedMemory::map(size_t bytes) {
  if (uint8_t* spare = take_spare(bytes)) return spare;
  uint8_t* data = refused_ ? nullptr : pin_new(bytes);
  if (data != nullptr) return data;
  refused_ = true;
  data = map_os_pages(bytes);
  if (data != nullptr) plain_.insert(data);
  return data;
}

void PinnedMemory::unmap(uint8_t* data, size_t bytes) {
  if (plain_.erase(data) > 0) {
    unmap_os_pages(data, bytes);
  } else if (!keep_spare({data, bytes})) {
    (void)cudaFreeHost(data);
  }
}

void PinnedMemory::pin(std::span<uint8_t> memory) {
  if (!refused_ && cudaSetDevice(index_) == cudaSuccess &&
      cudaHostRegister(memory.data(), memory.size(), cudaHostRegisterPortable) == cudaSuccess) {
    return;
  }
  (void)cudaGetLastError();
  refused_ = true;
}

void PinnedMemory::unpin(std::span<uint8_t> memory) {
  if (cudaHostUnregister(memory.data()) != cudaSuccess) (void)cudaGetLastError();
}

uint8_t* PinnedMemory::pin_new(size_t bytes) const {
  uint8_t* data = nullptr;
  if (cudaSetDevice(index_) == cudaSuccess &&
      cudaMallocHost(reinterpret_cast<void**>(&data), bytes) == cudaSuccess) {
    return data;
  }
  (void)cudaGetLastError();  // else the thread's next launch would report it
  return nullptr;
}

// Of just this size: a larger one would be more than its pool has charged.
uint8_t* PinnedMemory::take_spare(size_t bytes) {
  std::unique_lock lock(mutex_);
  if (bytes > limit_) return nullptr;
  auto spare = std::ranges::find(spares_, bytes, bytes_of);
  while (spare == spares_.end() && !orders_.empty() && orders_.front() == bytes) {
    changed_.wait(lock);
    spare = std::ranges::find(spares_, bytes, bytes_of);
  }
  uint8_t* data = nullptr;
  if (spare != spares_.end()) {
    data = spare->data();
    held_ -= bytes;
    spares_.erase(spare);
  }
  // This size is what is wanted now: the oldest of the others make room for one ahead.
  while (data == nullptr && held_ + bytes > limit_ && !spares_.empty()) {
    (void)cudaFreeHost(spares_.front().data());
    held_ -= spares_.front().size();
    spares_.erase(spares_.begin());
  }
  order(bytes);
  return data;
}

bool PinnedMemory::keep_spare(std::span<uint8_t> chunk) {
  const std::lock_guard lock(mutex_);
  if (held_ + chunk.size() > limit_) return false;
  held_ += chunk.size();
  spares_.push_back(chunk);
  return true;
}

// Under the lock.
void PinnedMemory::order(size_t bytes) {
  auto ahead = std::ranges::count(spares_, bytes, bytes_of) + std::ranges::count(orders_, bytes);
  for (; !ended_ && ahead < kAhead && held_ + bytes <= limit_; ++ahead) {
    orders_.push_back(bytes);
    held_ += bytes;
  }
  changed_.notify_all();
}

// The thread.
void PinnedMemory::work_off_orders() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ended_ || !orders_.empty(); });
    if (ended_) return;
    const size_t bytes = orders_.front();
    lock.unlock();
    uint8_t* data = pin_new(bytes);
    lock.lock();
    if (data == nullptr) {
      // What is really needed may still be had; whoever maps it will tell.
      ended_ = true;
      for (const size_t each : orders_) held_ -= each;
      orders_.clear();
      changed_.notify_all();
      return;
    }
    orders_.pop_front();
    spares_.emplace_back(data, bytes);
    changed_.notify_all();
  }
}

}  // namespace quire
