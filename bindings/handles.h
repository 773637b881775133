// Handles of the C API: numbers, never addresses, so that a stale or foreign one is recognised instead of
// followed.
//
// A handle is (generation, slot) packed into a pointer's bits; a closed handle's generation is gone for good.
// This table is the one piece of process-wide state in the library: a handle must be checkable when the cache
// that it belonged to no longer exists. Thread safety: every function may be called from any thread. The
// objects are not protected by the table.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace quire {

enum class HandleKind : uint8_t { kFree, kCache, kSequence, kStep };

class HandleTable {
 public:
  static HandleTable& instance();

  // The handle of a new entry; object is owned by the caller. owner: the handle of its cache, 0 for a cache
  // itself.
  uintptr_t add(HandleKind kind, void* object, uintptr_t owner);
  // nullptr when the handle is not an open one of this kind.
  void* find(HandleKind kind, uintptr_t handle, uintptr_t* owner = nullptr);
  void remove(uintptr_t handle);
  // The handles of a kind whose owner this is.
  std::vector<uintptr_t> owned_by(uintptr_t owner, HandleKind kind);

 private:
  struct Entry {
    HandleKind kind = HandleKind::kFree;
    uint32_t generation = 0;
    void* object = nullptr;
    uintptr_t owner = 0;
  };
  Entry* entry(uintptr_t handle);

  std::mutex mutex_;
  std::vector<Entry> entries_;
  std::vector<uint32_t> free_;
};

}  // namespace quire
