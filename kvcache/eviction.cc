#include "kvcache/eviction.h"

#include <cmath>

namespace quire {
namespace {

constexpr double kLeastMass = 0x1p-24;
constexpr uint8_t kMostUses = 3;

void unlink(EvictionNode* node) {
  node->previous->next = node->next;
  node->next->previous = node->previous;
  node->next = node->previous = nullptr;
}

void link_last(EvictionNode* head, EvictionNode* node) {
  node->previous = head->previous;
  node->next = head;
  head->previous->next = node;
  head->previous = node;
}

// Everything of `from` behind everything of `to`.
void splice(EvictionNode* to, EvictionNode* from) {
  if (from->next == from) return;
  from->next->previous = to->previous;
  to->previous->next = from->next;
  from->previous->next = to;
  to->previous = from->previous;
  from->next = from->previous = from;
}

}  // namespace

EvictionQueues::EvictionQueues(Eviction kind) : kind_(kind) {
  for (EvictionNode& head : heads_) head.next = head.previous = &head;
}

// The half octave of a heat. What lies below all others is kept with the lowest; where the highest has no
// place any more, the lowest ones are put together.
EvictionNode* EvictionQueues::bucket(double heat) {
  const int64_t wanted = heat <= -0x1p60 ? INT64_MIN : static_cast<int64_t>(std::floor(2 * heat));
  if (lowest_ == INT64_MIN) lowest_ = wanted == INT64_MIN ? 0 : wanted - static_cast<int64_t>(kQueues / 2);
  const auto slot = [this](int64_t number) { return &heads_[static_cast<size_t>(number & (kQueues - 1))]; };
  if (wanted > lowest_ + int64_t{2 * kQueues}) {  // nothing that is there counts beside it
    for (int64_t i = 1; i < int64_t{kQueues}; ++i) splice(slot(lowest_), slot(lowest_ + i));
    EvictionNode* from = slot(lowest_);
    lowest_ = wanted - int64_t{kQueues} + 1;
    if (slot(lowest_) != from) splice(slot(lowest_), from);
  }
  for (; wanted > lowest_ + int64_t{kQueues} - 1; ++lowest_) {
    // The slot of the lowest will stand for a new highest: its nodes go in front of the next one's.
    EvictionNode* from = slot(lowest_);
    EvictionNode* to = slot(lowest_ + 1);
    splice(from, to);
    splice(to, from);
  }
  return slot(std::max(wanted, lowest_));
}

EvictionNode* EvictionQueues::queue_of(const EvictionNode& node) {
  if (by_heat()) return bucket(node.heat);
  return &heads_[node.main ? 1 : 0];
}

void EvictionQueues::requeue(EvictionNode* node) {
  unlink(node);
  link_last(queue_of(*node), node);
}

void EvictionQueues::insert(EvictionNode* node) {
  if (!active() || node->next != nullptr) return;
  if (kind_ == Eviction::kS3Fifo) {
    // The ghost queue is as long as the main one: a page that comes back before as many others have left
    // small was put out too early.
    node->main = node->left_main != 0 && evictions_ - node->left_main <= main_;
    node->left_main = 0;
    node->uses = 0;
    ++(node->main ? main_ : small_);
  }
  link_last(queue_of(*node), node);
}

void EvictionQueues::remove(EvictionNode* node, bool evicted) {
  if (!active() || node->next == nullptr) return;
  unlink(node);
  if (kind_ != Eviction::kS3Fifo) return;
  --(node->main ? main_ : small_);
  if (evicted && !node->main) node->left_main = ++evictions_;
}

void EvictionQueues::use(EvictionNode* node, double mass, uint64_t step, bool guard) {
  if (!active()) return;
  step_ = std::max(step_, step);
  if (guard) node->guarded = step;
  if (by_heat()) {
    const double weight = kind_ == Eviction::kMass ? kMassPower * std::log2(std::max(mass, kLeastMass)) : 0;
    // Uses of different steps add up in the terms of step 0, so that nothing has to be decayed later.
    const double now = weight + static_cast<double>(step) / kHalfLifeSteps;
    const double high = std::max(now, node->heat);
    node->heat = high + std::log2(1 + std::exp2(std::min(now, node->heat) - high));
  }
  if (kind_ == Eviction::kS3Fifo) node->uses = std::min<uint8_t>(kMostUses, node->uses + 1);
  const bool moves = kind_ == Eviction::kLru || by_heat();
  if (moves && node->next != nullptr) requeue(node);
}

bool EvictionQueues::admits(const EvictionNode& loaded, const EvictionNode& victim) const {
  return !by_heat() || loaded.heat >= victim.heat + kAdmitOctaves;
}

}  // namespace quire
