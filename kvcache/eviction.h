// Which pages leave host memory first, and which loaded ones may stay: policies as plain data over events.
//
// The same functions serve the engine, where every page record carries a node, and quire-trace, which replays
// recorded events. Events: a page comes into memory, is attended, leaves. Newest first (policy.h) keeps no
// queues; it is here for its name alone. Invariants: a node is in at most one queue; the order of events is
// all that a choice depends on. Thread safety: none; the engine holds Residency's lock.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>

namespace quire {

enum class Eviction : uint8_t {
  kAuto = 0,         // newest first, or what selects best where pages have digests
  kNewestFirst = 1,  // exact attention: a fixed set of pages, see policy.h
  kLru = 2,          // least recently attended first
  kS3Fifo = 3,       // Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023
  kMass = 4,         // as kFrequency, a use counting as the fourth root of the attention that it held
  kFrequency = 5,    // least often attended first; uses count half as much every kHalfLifeSteps
};

struct EvictionName {
  Eviction kind;
  std::string_view name;
};
// Every policy, in the order of its values.
inline constexpr std::array<EvictionName, 6> kEvictions{{{Eviction::kAuto, "auto"},
                                                         {Eviction::kNewestFirst, "newest"},
                                                         {Eviction::kLru, "lru"},
                                                         {Eviction::kS3Fifo, "s3fifo"},
                                                         {Eviction::kMass, "mass"},
                                                         {Eviction::kFrequency, "frequency"}}};

// What a page's record keeps for the policy.
struct EvictionNode {
  EvictionNode* next = nullptr;  // in a ring with its queue's head; null: in no queue
  EvictionNode* previous = nullptr;
  double heat = kCold;     // kMass, kFrequency: log2 of the sum of uses, in terms of step 0
  uint64_t guarded = 0;    // the last step that had to attend the page: a sink, or in the window
  uint64_t left_main = 0;  // kS3Fifo: evictions from the small queue when this page was one; 0: never
  uint8_t uses = 0;        // kS3Fifo: at most 3
  bool main = false;       // kS3Fifo: in the main queue
  static constexpr double kCold = -1e300;
};

inline constexpr double kHalfLifeSteps = 4;  // of a use; measured, as the next two (bench/README.md)
inline constexpr double kMassPower = .25;    // how much what a use holds counts beside that it is one
inline constexpr uint64_t kGuardSteps = 16;  // how long a sink or a page of the window is kept after its use
inline constexpr double kAdmitOctaves = 1;   // a loaded page must be worth twice its victim

class EvictionQueues {
 public:
  explicit EvictionQueues(Eviction kind = Eviction::kNewestFirst);
  EvictionQueues(const EvictionQueues&) = delete;
  EvictionQueues& operator=(const EvictionQueues&) = delete;

  Eviction kind() const { return kind_; }
  // Before any page; not kAuto.
  void set_kind(Eviction kind) { kind_ = kind; }
  // False: newest first, and every function below does nothing.
  bool active() const { return kind_ != Eviction::kNewestFirst; }

  void insert(EvictionNode* node);
  // evicted: by choice; false where the page is gone for good.
  void remove(EvictionNode* node, bool evicted);
  // The page was attended in `step` and held `mass` of the attention, summed over queries and heads; whether
  // or not it is in memory. guard: the step could not do without it.
  void use(EvictionNode* node, double mass, uint64_t step, bool guard);
  // The page that leaves first among those that may, or null. `may(node)` is asked of at most `most` nodes.
  // Guarded pages go only where nothing else can.
  template <typename May>
  EvictionNode* victim(May&& may, uint32_t most = UINT32_MAX);
  // Whether a page that was just loaded is worth more than the victim.
  bool admits(const EvictionNode& loaded, const EvictionNode& victim) const;

 private:
  static constexpr size_t kQueues = 64;  // kMass, kFrequency: half octaves of heat; kS3Fifo: small and main

  bool by_heat() const { return kind_ == Eviction::kMass || kind_ == Eviction::kFrequency; }
  bool guarded(const EvictionNode& node) const {
    return node.guarded != 0 && node.guarded + kGuardSteps > step_;
  }
  EvictionNode* queue_of(const EvictionNode& node);
  EvictionNode* bucket(double heat);
  void requeue(EvictionNode* node);
  template <typename May>
  EvictionNode* first_in(EvictionNode* head, May&& may, uint32_t& left, EvictionNode** guarded_one);
  template <typename May>
  EvictionNode* first_s3fifo(bool from_main, May&& may, uint32_t& left, EvictionNode** guarded_one);

  Eviction kind_;
  std::array<EvictionNode, kQueues> heads_;
  int64_t lowest_ = INT64_MIN;  // kMass, kFrequency: the bucket that heads_[lowest_ % kQueues] stands for
  uint64_t step_ = 0;
  uint64_t evictions_ = 1;  // kS3Fifo: from the small queue, ever
  uint64_t small_ = 0;      // nodes per queue
  uint64_t main_ = 0;
};

template <typename May>
EvictionNode* EvictionQueues::first_in(EvictionNode* head, May&& may, uint32_t& left,
                                       EvictionNode** guarded_one) {
  for (EvictionNode* node = head->next; node != head && left > 0; node = node->next, --left) {
    if (!may(*node)) continue;
    if (!guarded(*node)) return node;
    if (*guarded_one == nullptr) *guarded_one = node;
  }
  return nullptr;
}

// Pages that were attended since they came move to the back of the main queue; each turn costs one use, so
// that a round of the queue finds a victim.
template <typename May>
EvictionNode* EvictionQueues::first_s3fifo(bool from_main, May&& may, uint32_t& left,
                                           EvictionNode** guarded_one) {
  EvictionNode* head = &heads_[from_main ? 1 : 0];
  for (EvictionNode* node = head->next; node != head && left > 0; --left) {
    EvictionNode* next = node->next;
    if (may(*node)) {
      const bool spared = from_main ? node->uses > 0 : node->uses > 1;
      if (!spared && !guarded(*node)) return node;
      if (!spared && *guarded_one == nullptr) *guarded_one = node;
      if (spared) {
        node->uses = static_cast<uint8_t>(from_main ? node->uses - 1 : 0);
        if (!from_main) {
          --small_;
          ++main_;
          node->main = true;
        }
        requeue(node);
      }
    }
    node = next;
  }
  return nullptr;
}

template <typename May>
EvictionNode* EvictionQueues::victim(May&& may, uint32_t most) {
  EvictionNode* guarded_one = nullptr;
  EvictionNode* found = nullptr;
  uint32_t left = most;
  if (kind_ == Eviction::kS3Fifo) {
    // The small queue keeps a tenth; where one has no victim, the other may have.
    const bool small_first = small_ * 10 >= small_ + main_;
    for (const bool from_main : {!small_first, small_first, true}) {
      found = first_s3fifo(from_main, may, left, &guarded_one);
      if (found != nullptr) return found;
    }
    return guarded_one;
  }
  const size_t first = by_heat() && lowest_ != INT64_MIN ? static_cast<size_t>(lowest_ & (kQueues - 1)) : 0;
  const size_t queues = by_heat() ? kQueues : 1;
  for (size_t i = 0; i < queues && found == nullptr && left > 0; ++i) {
    found = first_in(&heads_[(first + i) % kQueues], may, left, &guarded_one);
  }
  return found != nullptr ? found : guarded_one;
}

}  // namespace quire
