// Eviction policies against hand-made truths, and against plain implementations over random events.
#include "kvcache/eviction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <deque>
#include <list>
#include <random>
#include <set>
#include <vector>

namespace quire {
namespace {

constexpr auto kAny = [](const EvictionNode&) { return true; };

struct Pages {
  explicit Pages(size_t count) : nodes(count) {}
  size_t index(const EvictionNode* node) const { return static_cast<size_t>(node - nodes.data()); }
  std::vector<EvictionNode> nodes;
};

TEST(Eviction, LeastRecentlyUsedGoesFirst) {
  Pages pages(3);
  EvictionQueues queues(Eviction::kLru);
  for (EvictionNode& node : pages.nodes) queues.insert(&node);
  EXPECT_EQ(pages.index(queues.victim(kAny)), 0U);
  queues.use(pages.nodes.data(), 1, 1, false);
  EXPECT_EQ(pages.index(queues.victim(kAny)), 1U);
  EXPECT_EQ(pages.index(queues.victim([&](const EvictionNode& n) { return pages.index(&n) != 1; })), 2U);
  EXPECT_EQ(queues.victim([](const EvictionNode&) { return false; }), nullptr);
  EXPECT_EQ(queues.victim([&](const EvictionNode& n) { return pages.index(&n) == 0; }, 2), nullptr)
      << "two looks do not reach the third node";
}

TEST(Eviction, GuardedPagesGoLastUntilTheirUseIsOld) {
  for (const Eviction kind : {Eviction::kLru, Eviction::kS3Fifo, Eviction::kMass, Eviction::kFrequency}) {
    Pages pages(3);
    EvictionQueues queues(kind);
    for (EvictionNode& node : pages.nodes) queues.insert(&node);
    queues.use(pages.nodes.data(), 1e-6, 1, true);
    queues.use(&pages.nodes[1], 1, 1, false);
    queues.use(&pages.nodes[2], 1, 1, false);
    EXPECT_NE(pages.index(queues.victim(kAny)), 0U);
    EXPECT_EQ(pages.index(queues.victim([&](const EvictionNode& n) { return pages.index(&n) == 0; })), 0U)
        << "where nothing else can go";
    for (uint64_t step = 2; step < 2 + kGuardSteps; ++step) {
      queues.use(&pages.nodes[1], 1, step, false);
      queues.use(&pages.nodes[2], 1, step, false);
    }
    EXPECT_EQ(pages.index(queues.victim(kAny)), 0U) << static_cast<int>(kind);
  }
}

// Ten pages; page 0 is attended twice while it is in the small queue, the others once or never.
TEST(Eviction, S3FifoKeepsWhatIsUsedAgain) {
  Pages pages(12);
  EvictionQueues queues(Eviction::kS3Fifo);
  for (size_t i = 0; i < 10; ++i) queues.insert(&pages.nodes[i]);
  queues.use(pages.nodes.data(), 1, 1, false);
  queues.use(pages.nodes.data(), 1, 2, false);
  EvictionNode* first = queues.victim(kAny);
  EXPECT_EQ(pages.index(first), 1U) << "page 0 has moved to the main queue";
  EXPECT_TRUE(pages.nodes[0].main);
  queues.remove(first, true);
  EXPECT_NE(pages.nodes[1].left_main, 0U) << "a ghost";
  queues.insert(&pages.nodes[1]);
  EXPECT_TRUE(pages.nodes[1].main) << "it came back soon: small was too small for it";
}

TEST(Eviction, UsesDecayByHalf) {
  Pages pages(3);
  EvictionQueues queues(Eviction::kFrequency);
  constexpr uint64_t kLater = 100 + static_cast<uint64_t>(kHalfLifeSteps);
  queues.use(pages.nodes.data(), .5, 100, false);
  queues.use(pages.nodes.data(), .25, 100, false);
  queues.use(&pages.nodes[1], .5, kLater, false);
  EXPECT_NEAR(pages.nodes[0].heat, pages.nodes[1].heat, 1e-9);
  EXPECT_FALSE(queues.admits(pages.nodes[0], pages.nodes[1])) << "what is there stays among equals";
  queues.use(&pages.nodes[1], .5, kLater, false);
  EXPECT_TRUE(queues.admits(pages.nodes[1], pages.nodes[0]));
  // By mass a use counts as its fourth root.
  EvictionQueues by_mass(Eviction::kMass);
  by_mass.use(&pages.nodes[2], 1.0 / 16, kLater, false);
  EXPECT_NEAR(pages.nodes[2].heat, pages.nodes[0].heat - 1, 1e-9);
}

// A cyclic scan in which all pages count the same must not exchange anything.
TEST(Eviction, FrequencyKeepsAFixedSetUnderACyclicScan) {
  Pages pages(100);
  EvictionQueues queues(Eviction::kFrequency);
  std::set<size_t> memory;
  for (size_t i = 0; i < 60; ++i) {
    queues.insert(&pages.nodes[i]);
    memory.insert(i);
  }
  uint64_t hits = 0;
  for (uint64_t step = 1; step <= 50; ++step) {
    for (size_t i = 0; i < 100; ++i) {
      queues.use(&pages.nodes[i], 1, step, false);
      if (memory.contains(i)) {
        ++hits;
        continue;
      }
      EvictionNode* victim = queues.victim(kAny);
      if (!queues.admits(pages.nodes[i], *victim)) continue;
      memory.erase(pages.index(victim));
      queues.remove(victim, true);
      queues.insert(&pages.nodes[i]);
      memory.insert(i);
    }
  }
  EXPECT_GE(hits, 50 * 60 - 80U) << "the first step, when nothing is known, may exchange some";
}

// The same events to the queues and to a plain list.
TEST(Eviction, LruIsAListInOrderOfUse) {
  std::mt19937_64 random(1);
  uint64_t cases = 0;
  Pages pages(64);
  EvictionQueues queues(Eviction::kLru);
  std::list<size_t> order;
  for (uint64_t step = 1; step < 20000; ++step, ++cases) {
    const size_t i = random() % 64;
    const bool is_in = std::find(order.begin(), order.end(), i) != order.end();
    const uint64_t what = random() % 4;
    if (!is_in && what == 0) {
      queues.insert(&pages.nodes[i]);
      order.push_back(i);
    } else if (is_in && what == 1) {
      queues.remove(&pages.nodes[i], true);
      order.remove(i);
    } else {
      queues.use(&pages.nodes[i], 1, step, false);
      if (is_in) order.splice(order.end(), order, std::find(order.begin(), order.end(), i));
    }
    EvictionNode* victim = queues.victim(kAny);
    ASSERT_EQ(victim == nullptr, order.empty());
    if (victim != nullptr) {
      ASSERT_EQ(pages.index(victim), order.front());
    }
  }
  std::printf("[counts] cases=%llu\n", static_cast<unsigned long long>(cases));
}

// S3-FIFO written down with deques and sets, for caches that hold `room` pages.
class PlainS3Fifo {
 public:
  explicit PlainS3Fifo(size_t room) : room_(room) {}
  bool access(size_t page) {
    const auto in = [page](const std::deque<Entry>& q) {
      return std::find_if(q.begin(), q.end(), [page](const Entry& e) { return e.page == page; });
    };
    for (std::deque<Entry>* queue : {&small_, &main_}) {
      const auto found = in(*queue);
      if (found == queue->end()) continue;
      auto& entry = (*queue)[static_cast<size_t>(found - queue->begin())];
      entry.uses = std::min(3, entry.uses + 1);
      return true;
    }
    if (small_.size() + main_.size() == room_) evict();
    const auto ghost = std::find(ghosts_.begin(), ghosts_.end(), page);
    // Ghosts in the order in which they left: only as many count as the main queue holds.
    const bool known =
        ghost != ghosts_.end() && static_cast<size_t>(ghosts_.end() - ghost) - 1 <= main_.size();
    if (ghost != ghosts_.end()) *ghost = SIZE_MAX;
    (known ? main_ : small_).push_back({page, 0});
    return false;
  }

 private:
  struct Entry {
    size_t page;
    int uses;
  };
  void evict() {
    bool from_small = small_.size() * 10 >= small_.size() + main_.size();
    for (;; from_small = !from_small) {
      if (from_small) {
        while (!small_.empty()) {
          const Entry entry = small_.front();
          small_.pop_front();
          if (entry.uses <= 1) return ghosts_.push_back(entry.page);
          main_.push_back({entry.page, 0});
        }
      } else {
        while (!main_.empty()) {
          const Entry entry = main_.front();
          main_.pop_front();
          if (entry.uses == 0) return;
          main_.push_back({entry.page, entry.uses - 1});
        }
      }
    }
  }
  size_t room_;
  std::deque<Entry> small_;
  std::deque<Entry> main_;
  std::vector<size_t> ghosts_;
};

TEST(Eviction, S3FifoIsThePapersAlgorithm) {
  uint64_t cases = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::mt19937_64 random(seed);
    constexpr size_t kPages = 200;
    const size_t room = 10 + random() % 60;
    Pages pages(kPages);
    EvictionQueues queues(Eviction::kS3Fifo);
    PlainS3Fifo plain(room);
    std::set<size_t> memory;
    for (uint64_t step = 1; step < 3000; ++step, ++cases) {
      // Some pages are much more popular.
      const double u = std::generate_canonical<double, 53>(random);
      const auto i = static_cast<size_t>(kPages * u * u * u);
      const bool hit = memory.contains(i);
      ASSERT_EQ(hit, plain.access(i)) << "seed " << seed << " step " << step;
      if (hit) {
        queues.use(&pages.nodes[i], 1, step, false);
        continue;
      }
      if (memory.size() == room) {
        EvictionNode* victim = queues.victim(kAny);
        memory.erase(pages.index(victim));
        queues.remove(victim, true);
      }
      queues.insert(&pages.nodes[i]);
      memory.insert(i);
    }
  }
  std::printf("[counts] cases=%llu\n", static_cast<unsigned long long>(cases));
}

// The victim's uses, decayed in f64 by hand, is within half an octave of the smallest there is.
TEST(Eviction, HeatTakesTheLeastUsed) {
  uint64_t cases = 0;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    std::mt19937_64 random(seed);
    constexpr size_t kPages = 100;
    Pages pages(kPages);
    const bool by_mass = seed % 2 == 1;
    EvictionQueues queues(by_mass ? Eviction::kMass : Eviction::kFrequency);
    std::vector<double> mass(kPages, 0);
    for (EvictionNode& node : pages.nodes) {
      queues.use(&node, 1, 1, false);
      queues.insert(&node);
    }
    std::fill(mass.begin(), mass.end(), 1);
    uint64_t step = 1;
    for (int turn = 0; turn < 2000; ++turn, ++cases) {
      const uint64_t steps = random() % 3;
      step += steps;
      for (double& m : mass) m *= std::exp2(-static_cast<double>(steps) / kHalfLifeSteps);
      const size_t i = random() % kPages;
      const double used = std::exp2(-static_cast<double>(random() % 12));
      queues.use(&pages.nodes[i], used, step, false);
      mass[i] += by_mass ? std::sqrt(std::sqrt(used)) : 1;
      const double least = *std::min_element(mass.begin(), mass.end());
      // Beyond the span of the queues everything counts as the lowest.
      const double floor = std::exp2(std::log2(*std::max_element(mass.begin(), mass.end())) - 28);
      ASSERT_LE(mass[pages.index(queues.victim(kAny))], std::max(least, floor) * std::sqrt(2.0) * 1.0001);
    }
  }
  std::printf("[counts] cases=%llu\n", static_cast<unsigned long long>(cases));
}

}  // namespace
}  // namespace quire
