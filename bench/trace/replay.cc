#include "bench/trace/replay.h"

#include <bit>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

namespace quire::bench {
namespace {

struct PageRecord : EvictionNode {
  uint64_t stream = 0;
  uint32_t index = 0;
  uint32_t bytes = 0;
  bool in_memory = false;
  bool on_disk = false;
  size_t next = 0;             // the optimum: its next use, of `uses`
  std::vector<uint64_t> uses;  // that count, as indices of events
};

uint64_t key_of(uint64_t stream, uint32_t page) { return stream << 32 | page; }

// Pages by name; records do not move.
class Pages {
 public:
  PageRecord& operator()(uint64_t stream, uint32_t page, uint32_t bytes) {
    PageRecord*& record = known_[key_of(stream, page)];
    if (record == nullptr) {
      record = &records_.emplace_back();
      record->stream = stream;
      record->index = page;
      record->bytes = bytes;
    }
    return *record;
  }

 private:
  std::unordered_map<uint64_t, PageRecord*> known_;
  std::deque<PageRecord> records_;
};

// Uses that count: those of decoding. What a prompt reads is not the policy's to save.
bool counts(const AccessEvent& event) { return event.kind == AccessKind::kUse && event.tokens == 1; }

// Whoever decides; told everything.
class Chooser {
 public:
  virtual ~Chooser() = default;
  virtual void came(PageRecord& page) = 0;
  virtual void left(PageRecord& page, bool evicted) = 0;
  virtual void used(PageRecord& page, double mass, const AccessEvent& event, bool guard) = 0;
  // nullptr: there is none in memory.
  virtual PageRecord* victim() = 0;
  // A page that was read may take the place of the victim.
  virtual bool admits(const PageRecord& page, const PageRecord& victim) = 0;
};

class ByQueues final : public Chooser {
 public:
  explicit ByQueues(Eviction kind) : queues_(kind) {}
  void came(PageRecord& page) override { queues_.insert(&page); }
  void left(PageRecord& page, bool evicted) override { queues_.remove(&page, evicted); }
  void used(PageRecord& page, double mass, const AccessEvent& event, bool guard) override {
    queues_.use(&page, mass, event.step, guard);
  }
  PageRecord* victim() override {
    return static_cast<PageRecord*>(queues_.victim([](const EvictionNode&) { return true; }));
  }
  bool admits(const PageRecord& page, const PageRecord& victim) override {
    return queues_.admits(page, victim);
  }

 private:
  EvictionQueues queues_;
};

class NewestFirst final : public Chooser {
 public:
  void came(PageRecord& page) override { streams_[page.stream].pages[page.index] = &page; }
  void left(PageRecord& page, bool /*evicted*/) override { streams_[page.stream].pages.erase(page.index); }
  void used(PageRecord& page, double /*mass*/, const AccessEvent& event, bool /*guard*/) override {
    streams_[page.stream].last_used = event.step;
  }
  PageRecord* victim() override {
    const Stream* best = nullptr;
    for (const auto& [id, stream] : streams_) {
      if (stream.pages.empty()) continue;
      const auto order = [](const Stream& s) { return std::pair(~s.last_used, s.pages.rbegin()->first); };
      if (best == nullptr || order(stream) > order(*best)) best = &stream;
    }
    return best == nullptr ? nullptr : best->pages.rbegin()->second;
  }
  bool admits(const PageRecord& /*page*/, const PageRecord& /*victim*/) override { return false; }

 private:
  struct Stream {
    uint64_t last_used = 0;
    std::map<uint32_t, PageRecord*> pages;
  };
  std::map<uint64_t, Stream> streams_;
};

class Optimum final : public Chooser {
 public:
  void came(PageRecord& page) override { order_.emplace(next_use(page), &page); }
  void left(PageRecord& page, bool /*evicted*/) override { order_.erase({next_use(page), &page}); }
  void used(PageRecord& page, double /*mass*/, const AccessEvent& event, bool /*guard*/) override {
    if (!counts(event)) return;
    if (page.in_memory) order_.erase({next_use(page), &page});
    ++page.next;
    if (page.in_memory) order_.emplace(next_use(page), &page);
  }
  PageRecord* victim() override { return order_.empty() ? nullptr : order_.rbegin()->second; }
  bool admits(const PageRecord& page, const PageRecord& victim) override {
    return next_use(page) < next_use(victim);
  }

 private:
  static uint64_t next_use(const PageRecord& page) {
    return page.next < page.uses.size() ? page.uses[page.next] : UINT64_MAX;
  }
  std::set<std::pair<uint64_t, PageRecord*>> order_;
};

class Replay {
 public:
  Replay(const AccessLog& log, std::optional<Eviction> policy, uint64_t memory_bytes)
      : log_(log), memory_bytes_(memory_bytes) {
    if (!policy) {
      chooser_ = std::make_unique<Optimum>();
      look_ahead();
    } else if (*policy == Eviction::kNewestFirst) {
      chooser_ = std::make_unique<NewestFirst>();
    } else {
      chooser_ = std::make_unique<ByQueues>(*policy);
    }
  }

  ReplayCounts run() {
    for (const AccessEvent& event : log_.events) {
      switch (event.kind) {
        case AccessKind::kSeal:
          seal(pages_(event.stream, event.page, event.bytes), event.bytes);
          break;
        case AccessKind::kUse:
          use(event);
          break;
        case AccessKind::kFree:
          forget(pages_(event.stream, event.page, event.bytes));
          break;
      }
    }
    return counts_;
  }

 private:
  template <typename Visit>
  static void for_each_wanted(const AccessEvent& event, Visit&& visit) {
    size_t next = 0;
    for (uint32_t left = event.wanted; left != 0; left &= left - 1, ++next) {
      visit(static_cast<uint32_t>(std::countr_zero(left)), next);
    }
  }

  void look_ahead() {
    for (size_t i = 0; i < log_.events.size(); ++i) {
      const AccessEvent& event = log_.events[i];
      if (!counts(event)) continue;
      for_each_wanted(event, [&](uint32_t bit, size_t) {
        pages_(event.stream, event.page + bit, event.bytes).uses.push_back(i);
      });
    }
  }

  void leave(PageRecord& page, bool evicted) {
    chooser_->left(page, evicted);
    page.in_memory = false;
    used_bytes_ -= page.bytes;
    if (evicted && !page.on_disk) {
      ++counts_.written_pages;
      page.on_disk = true;
    }
  }

  void enter(PageRecord& page) {
    page.in_memory = true;
    used_bytes_ += page.bytes;
    chooser_->came(page);
  }

  // A new page has nowhere else to be; it may leave at once.
  void seal(PageRecord& page, uint32_t bytes) {
    if (page.in_memory) leave(page, false);
    page.bytes = bytes;  // a use tells those of its first page alone
    page.on_disk = false;
    enter(page);
    while (used_bytes_ > memory_bytes_) leave(*chooser_->victim(), true);
  }

  void forget(PageRecord& page) {
    if (page.in_memory) leave(page, false);
    page.on_disk = false;
  }

  void use(const AccessEvent& event) {
    std::vector<PageRecord*> loaded;
    for_each_wanted(event, [&](uint32_t bit, size_t next) {
      PageRecord& page = pages_(event.stream, event.page + bit, event.bytes);
      if (counts(event)) {
        ++counts_.uses;
        (page.in_memory ? counts_.hits : counts_.read_bytes) += page.in_memory ? 1 : page.bytes;
      }
      const double mass =
          event.has_mass != 0 ? static_cast<double>(log_.masses[event.first_mass + next]) : 1.0;
      chooser_->used(page, mass, event, (event.guarded >> bit & 1U) != 0);
      if (!page.in_memory) loaded.push_back(&page);
    });
    for (PageRecord* page : loaded) keep(*page);
  }

  void keep(PageRecord& page) {
    page.on_disk = true;
    while (used_bytes_ + page.bytes > memory_bytes_) {
      PageRecord* victim = chooser_->victim();
      if (victim == nullptr || !chooser_->admits(page, *victim)) return;
      leave(*victim, true);
    }
    enter(page);
  }

  const AccessLog& log_;
  uint64_t memory_bytes_;
  Pages pages_;
  std::unique_ptr<Chooser> chooser_;
  uint64_t used_bytes_ = 0;
  ReplayCounts counts_;
};

}  // namespace

uint64_t whole_bytes(const AccessLog& log) {
  std::unordered_map<uint64_t, uint32_t> bytes;
  for (const AccessEvent& event : log.events) {
    if (event.kind == AccessKind::kSeal) bytes[key_of(event.stream, event.page)] = event.bytes;
  }
  uint64_t sum = 0;
  for (const auto& [key, page] : bytes) sum += page;
  return sum;
}

ReplayCounts replay(const AccessLog& log, std::optional<Eviction> policy, uint64_t memory_bytes) {
  return Replay(log, policy, memory_bytes).run();
}

Foresight foresee(const AccessLog& log) {
  struct Choice {
    uint64_t step = 0;
    std::map<uint32_t, uint16_t> now;  // by first page of the run
    std::map<uint32_t, uint16_t> before;
  };
  std::map<uint64_t, Choice> streams;
  Foresight sum;
  const auto settle = [&sum](const Choice& choice) {
    if (choice.before.empty()) return;
    const auto count = [](const auto& runs) {
      uint64_t pages = 0;
      for (const auto& [first, bits] : runs) pages += static_cast<uint64_t>(std::popcount(bits));
      return pages;
    };
    sum.chosen += count(choice.now);
    sum.foretold += count(choice.before);
    for (const auto& [first, bits] : choice.now) {
      const auto found = choice.before.find(first);
      const uint16_t old = found == choice.before.end() ? uint16_t{0} : found->second;
      sum.both += static_cast<uint64_t>(std::popcount(static_cast<uint16_t>(bits & old)));
    }
  };
  for (const AccessEvent& event : log.events) {
    if (event.kind != AccessKind::kUse || event.has_mass == 0 || event.tokens != 1) continue;
    Choice& choice = streams[event.stream];
    if (choice.step != event.step) {
      settle(choice);
      choice.before = std::exchange(choice.now, {});
      choice.step = event.step;
    }
    choice.now[event.page] = static_cast<uint16_t>(event.wanted & ~event.guarded);
  }
  for (const auto& [stream, choice] : streams) settle(choice);
  return sum;
}

}  // namespace quire::bench
