#include "bindings/handles.h"

namespace quire {
namespace {

// Handles are odd multiples: they can never be mistaken for the address of an object. 31 bits of generation
// make a reuse of the same bits take two thousand million closes of one slot.
constexpr uintptr_t kMark = 1;
constexpr int kSlotShift = 1;
constexpr int kGenerationShift = 33;
constexpr uint32_t kGenerationMask = 0x7fffffff;

static_assert(sizeof(uintptr_t) == 8, "handles pack a slot and a generation into 64 bits");

uintptr_t pack(uint32_t slot, uint32_t generation) {
  return (uintptr_t{generation & kGenerationMask} << kGenerationShift) | (uintptr_t{slot} << kSlotShift) |
         kMark;
}

}  // namespace

HandleTable& HandleTable::instance() {
  // Never destroyed: handles may be used while the process ends.
  static HandleTable& table = *new HandleTable();
  return table;
}

HandleTable::Entry* HandleTable::entry(uintptr_t handle) {
  if ((handle & kMark) == 0) return nullptr;
  const auto slot = static_cast<uint32_t>(handle >> kSlotShift);
  if (slot >= entries_.size()) return nullptr;
  Entry& e = entries_[slot];
  return e.kind != HandleKind::kFree && pack(slot, e.generation) == handle ? &e : nullptr;
}

uintptr_t HandleTable::add(HandleKind kind, void* object, uintptr_t owner) {
  const std::scoped_lock lock(mutex_);
  uint32_t slot = 0;
  if (free_.empty()) {
    slot = static_cast<uint32_t>(entries_.size());
    entries_.emplace_back();
  } else {
    slot = free_.back();
    free_.pop_back();
  }
  Entry& e = entries_[slot];
  e.kind = kind;
  e.object = object;
  e.owner = owner;
  ++e.generation;
  return pack(slot, e.generation);
}

void* HandleTable::find(HandleKind kind, uintptr_t handle, uintptr_t* owner) {
  const std::scoped_lock lock(mutex_);
  const Entry* e = entry(handle);
  if (e == nullptr || e->kind != kind) return nullptr;
  if (owner != nullptr) *owner = e->owner;
  return e->object;
}

void HandleTable::remove(uintptr_t handle) {
  const std::scoped_lock lock(mutex_);
  Entry* e = entry(handle);
  if (e == nullptr) return;
  e->kind = HandleKind::kFree;
  e->object = nullptr;
  free_.push_back(static_cast<uint32_t>(handle >> kSlotShift));
}

std::vector<uintptr_t> HandleTable::owned_by(uintptr_t owner, HandleKind kind) {
  const std::scoped_lock lock(mutex_);
  std::vector<uintptr_t> handles;
  for (uint32_t slot = 0; slot < entries_.size(); ++slot) {
    const Entry& e = entries_[slot];
    if (e.kind == kind && e.owner == owner) handles.push_back(pack(slot, e.generation));
  }
  return handles;
}

}  // namespace quire
