// An io engine that lies and fails as disks do, over any other engine.
//
// A FaultPlan decides which operation is hit by which fault: by rules in the order in which they were added,
// else by chance from a seed. It is shared with the test, which may change it and read its counts at any
// time.
//
//   fault          what the caller sees                       what the disk does
//   kEio           kIo, EIO                                    nothing
//   kNoSpace       kIo, ENOSPC                                 nothing
//   kShort         kIo (0 for a read, EIO for a write)         moves the first half
//   kTorn          kOk                                         writes the first half
//   kBitFlip       kOk                                         as asked, one bit of what was read is wrong
//   kMisdirected   kOk                                         reads or writes 4 KiB beside the right place
//   kDelay         kExpired when it is overdue, then           as asked, but afterwards
//                  kReleased
//   kDuplicate     its completion twice, against the contract  as asked
//
// Halves are rounded down to 4 KiB, so of one block nothing moves. Without a plan's fault the engine below is
// seen unchanged. Thread safety: FaultPlan may be used from any thread; FaultyEngine as io_engine.h says.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <unordered_map>
#include <vector>

#include "offload/io_engine.h"
#include "offload/open_engine.h"

namespace quire::testing {

enum class Fault : uint8_t { kEio, kNoSpace, kShort, kTorn, kBitFlip, kMisdirected, kDelay, kDuplicate };
inline constexpr size_t kFaultCount = 8;

// Whether operations of this kind can be hit by the fault.
bool possible(Fault fault, IoKind kind);
std::string_view fault_name(Fault fault);

struct FaultRule {
  Fault fault = Fault::kEio;
  IoKind kind = IoKind::kRead;
  uint32_t after = 0;  // operations of this kind that the rule lets pass first
  uint32_t count = 1;  // operations that it then hits
};

class FaultPlan {
 public:
  explicit FaultPlan(uint64_t seed = 1) : random_(seed) {}

  void add(const FaultRule& rule);
  // From here on each operation (of `kind`, if one is given) that no rule hits is hit, by chance, by one of
  // `faults`.
  void hit_by_chance(uint32_t per_thousand, std::vector<Fault> faults, std::optional<IoKind> kind = {});
  // Forgets all rules and chances; the counts stay.
  void clear();
  // A delayed operation is overdue at its deadline or this long after its start, whichever comes first; at
  // first there is only the deadline. So a test need not wait for a deadline that a busy machine can keep
  // otherwise.
  void set_overdue(Nanoseconds after);
  // How long after it is overdue (or after its start, when it never is) a delayed operation is carried out;
  // 10 ms at first.
  void set_late(Nanoseconds late);

  uint64_t hits(Fault fault, IoKind kind) const;
  uint64_t hits() const;
  // Operations that were asked about, hit or not.
  uint64_t operations(IoKind kind) const;

 private:
  friend class FaultyEngine;
  std::optional<Fault> next(IoKind kind);
  std::optional<Fault> by_rule(IoKind kind);
  std::optional<Fault> by_chance(IoKind kind);
  uint64_t random(uint64_t below);
  // Of a delayed operation that starts now.
  struct Delay {
    Nanoseconds overdue_at;  // kNoDeadline: never
    Nanoseconds send_at;
  };
  Delay delay(Nanoseconds now, Nanoseconds deadline) const;

  mutable std::mutex mutex_;
  std::mt19937_64 random_;
  std::vector<FaultRule> rules_;
  uint32_t per_thousand_ = 0;
  std::vector<Fault> chances_;
  std::optional<IoKind> chance_kind_;
  Nanoseconds overdue_ = kNoDeadline;
  Nanoseconds late_ = std::chrono::milliseconds(10);
  std::array<std::array<uint64_t, kIoKindCount>, kFaultCount> hits_{};
  std::array<uint64_t, kIoKindCount> operations_{};
};

class FaultyEngine final : public IoEngine {
 public:
  // file_count: as many files as the engine below has.
  FaultyEngine(std::unique_ptr<IoEngine> below, size_t file_count, std::shared_ptr<FaultPlan> plan,
               const Clock& clock);

  Status submit(std::span<const IoOp> ops) override;
  Result<size_t> poll(std::span<Completion> out, Nanoseconds timeout) override;
  void wake() override;
  size_t pending() const override { return pending_; }
  std::string_view name() const override { return below_->name(); }

 private:
  // An operation that the engine below works on, under a tag of its own.
  struct Sent {
    IoOp op;
    std::optional<Fault> fault;
    bool late = false;  // expired before it was sent
  };
  // An operation that is held back.
  struct Held {
    IoOp op;
    Nanoseconds overdue_at;
    Nanoseconds send_at;
    bool expired = false;
  };

  Status start(const IoOp& op);
  Status send(const IoOp& op, std::optional<Fault> fault, bool late);
  Status serve_held();
  void receive(const Completion& below);
  void damage(const Sent& sent, Completion* completion);

  std::unique_ptr<IoEngine> below_;
  const size_t file_count_;
  std::shared_ptr<FaultPlan> plan_;
  const Clock& clock_;
  std::unordered_map<uint64_t, Sent> sent_;  // by tag below
  std::vector<Held> held_;
  std::deque<Completion> ready_;
  std::atomic<bool> woken_{false};
  uint64_t next_tag_ = 0;
  size_t pending_ = 0;
};

// For options that take an IoEngineFactory.
IoEngineFactory faulty_engine_factory(std::shared_ptr<FaultPlan> plan,
                                      IoEngineFactory below = open_io_engine);

}  // namespace quire::testing
