#include "tests/emu/memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <iterator>

#include "tests/emu/control.h"
#include "tests/emu/sanitizer.h"

namespace emu {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlign = 256;  // of device memory

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// The last entry that begins at or before `at`.
template <typename Map>
typename Map::const_iterator entry_before(const Map& map, const void* at) {
  const auto after = map.upper_bound(static_cast<const char*>(at));
  return after == map.begin() ? map.end() : std::prev(after);
}

}  // namespace

// The end of the allocation, to kAlign bytes, lies at a guard page; a sanitizer sees the bytes in between.
void* Memory::allocate_device(size_t bytes, int device) {
  if (bytes > settings().device_bytes || device_bytes_ > settings().device_bytes - bytes) return nullptr;
  const size_t body = round_up(bytes, kAlign);
  const size_t pages = round_up(body, kPage);
  void* memory =
      mmap(nullptr, pages + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  char* mapped = static_cast<char*>(memory) + kPage;
  mprotect(mapped, pages, PROT_READ | PROT_WRITE);
  char* data = mapped + pages - body;
  sanitizer::unpoison(mapped, pages);
  std::memset(mapped, 0xFF, pages);
  sanitizer::poison(mapped, static_cast<size_t>(data - mapped));
  sanitizer::poison(data + bytes, body - bytes);
  if (depth_ == 0) mprotect(mapped, pages, PROT_NONE);
  device_[data] = {mapped, pages, bytes, device};
  device_bytes_ += bytes;
  return data;
}

bool Memory::free_device(void* data) {
  const auto at = device_.find(static_cast<const char*>(data));
  if (at == device_.end()) return false;
  const Allocation& allocation = at->second;
  sanitizer::unpoison(allocation.mapped, allocation.mapped_bytes);
  munmap(allocation.mapped - kPage, allocation.mapped_bytes + 2 * kPage);
  device_bytes_ -= allocation.bytes;
  device_.erase(at);
  return true;
}

bool Memory::can_pin(size_t bytes) const {
  const size_t most = settings().pinned_bytes;
  return bytes <= most && pinned_bytes_ <= most - bytes;
}

void Memory::add_pinned(const void* data, size_t bytes) {
  pinned_[static_cast<const char*>(data)] = bytes;
  pinned_bytes_ += bytes;
  ++pinnings_;
}

bool Memory::remove_pinned(const void* data) {
  const auto entry = pinned_.find(static_cast<const char*>(data));
  if (entry == pinned_.end()) return false;
  pinned_bytes_ -= entry->second;
  pinned_.erase(entry);
  return true;
}

void* Memory::allocate_host(size_t bytes) {
  if (!can_pin(bytes)) return nullptr;
  void* data = nullptr;
  if (posix_memalign(&data, kPage, bytes) != 0) return nullptr;
  std::memset(data, 0xFF, bytes);
  add_pinned(data, bytes);
  return data;
}

bool Memory::free_host(void* data) {
  if (!remove_pinned(data)) return false;
  std::free(data);
  return true;
}

bool Memory::register_host(void* data, size_t bytes) {
  const auto* begin = static_cast<const char*>(data);
  const auto after = pinned_.lower_bound(begin);
  if (after != pinned_.end() && after->first < begin + bytes) return false;
  if (pinned(begin)) return false;
  add_pinned(data, bytes);
  return true;
}

bool Memory::unregister_host(void* data) { return remove_pinned(data); }

const Memory::Allocation* Memory::find_device(const void* at) const {
  const auto entry = entry_before(device_, at);
  if (entry == device_.end() || static_cast<const char*>(at) >= entry->first + entry->second.bytes)
    return nullptr;
  return &entry->second;
}

int Memory::device_of(const void* at) const {
  const Allocation* allocation = find_device(at);
  return allocation == nullptr ? -1 : allocation->device;
}

bool Memory::pinned(const void* at) const {
  const auto entry = entry_before(pinned_, at);
  return entry != pinned_.end() && static_cast<const char*>(at) < entry->first + entry->second;
}

bool Memory::in_bounds(const void* at, size_t bytes) const {
  const auto entry = entry_before(device_, at);
  if (entry == device_.end()) return true;
  const char* end = entry->first + entry->second.bytes;
  const auto* begin = static_cast<const char*>(at);
  return begin >= end || bytes <= static_cast<size_t>(end - begin);
}

void Memory::begin_device_work() {
  if (depth_++ == 0) protect(PROT_READ | PROT_WRITE);
}

void Memory::end_device_work() {
  if (--depth_ == 0) protect(PROT_NONE);
}

void Memory::protect(int protection) {
  for (const auto& [data, allocation] : device_)
    mprotect(allocation.mapped, allocation.mapped_bytes, protection);
}

}  // namespace emu
