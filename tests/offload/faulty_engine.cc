#include "tests/offload/faulty_engine.h"

#include <algorithm>
#include <cerrno>

#include "offload/io_wait.h"

namespace quire::testing {
namespace {

constexpr uint64_t kBlock = 4096;

IoOp first_half(IoOp op) {
  op.buffer = op.buffer.first(op.buffer.size() / 2 / kBlock * kBlock);
  return op;
}

IoOp misdirected(IoOp op) {
  op.offset = op.offset >= kBlock ? op.offset - kBlock : op.offset + kBlock;
  return op;
}

// How a fault that moves half an operation is reported.
Completion half_done(const IoOp& op, Fault fault) {
  if (fault == Fault::kTorn) return done(op, StatusCode::kOk);
  return done(op, StatusCode::kIo, op.kind == IoKind::kWrite ? EIO : 0);
}

}  // namespace

bool possible(Fault fault, IoKind kind) {
  switch (fault) {
    case Fault::kEio:
    case Fault::kDelay:
    case Fault::kDuplicate:
      return true;
    case Fault::kShort:
    case Fault::kMisdirected:
      return kind != IoKind::kSync;
    case Fault::kNoSpace:
    case Fault::kTorn:
      return kind == IoKind::kWrite;
    case Fault::kBitFlip:
      return kind == IoKind::kRead;
  }
  return false;
}

std::string_view fault_name(Fault fault) {
  constexpr std::array<std::string_view, kFaultCount> kNames{"EIO",      "ENOSPC",      "short", "torn",
                                                             "bit flip", "misdirected", "delay", "duplicate"};
  return kNames[static_cast<size_t>(fault)];
}

void FaultPlan::add(const FaultRule& rule) {
  const std::lock_guard lock(mutex_);
  rules_.push_back(rule);
}

void FaultPlan::hit_by_chance(uint32_t per_thousand, std::vector<Fault> faults, std::optional<IoKind> kind) {
  const std::lock_guard lock(mutex_);
  chance_kind_ = kind;
  per_thousand_ = per_thousand;
  chances_ = std::move(faults);
}

void FaultPlan::clear() {
  const std::lock_guard lock(mutex_);
  rules_.clear();
  chances_.clear();
}

void FaultPlan::set_overdue(Nanoseconds after) {
  const std::lock_guard lock(mutex_);
  overdue_ = after;
}

void FaultPlan::set_late(Nanoseconds late) {
  const std::lock_guard lock(mutex_);
  late_ = late;
}

FaultPlan::Delay FaultPlan::delay(Nanoseconds now, Nanoseconds deadline) const {
  const std::lock_guard lock(mutex_);
  const Nanoseconds overdue_at = overdue_ == kNoDeadline ? deadline : std::min(deadline, now + overdue_);
  return {overdue_at, (overdue_at == kNoDeadline ? now : overdue_at) + late_};
}

uint64_t FaultPlan::hits(Fault fault, IoKind kind) const {
  const std::lock_guard lock(mutex_);
  return hits_[static_cast<size_t>(fault)][static_cast<size_t>(kind)];
}

uint64_t FaultPlan::hits() const {
  const std::lock_guard lock(mutex_);
  uint64_t sum = 0;
  for (const auto& by_kind : hits_) {
    for (const uint64_t count : by_kind) sum += count;
  }
  return sum;
}

uint64_t FaultPlan::operations(IoKind kind) const {
  const std::lock_guard lock(mutex_);
  return operations_[static_cast<size_t>(kind)];
}

uint64_t FaultPlan::random(uint64_t below) {
  const std::lock_guard lock(mutex_);
  return random_() % below;
}

std::optional<Fault> FaultPlan::next(IoKind kind) {
  const std::lock_guard lock(mutex_);
  ++operations_[static_cast<size_t>(kind)];
  auto fault = by_rule(kind);
  if (!fault) fault = by_chance(kind);
  if (fault) ++hits_[static_cast<size_t>(*fault)][static_cast<size_t>(kind)];
  return fault;
}

// The mutex is held. The first rule that is due hits; all rules before it count the operation as passed.
std::optional<Fault> FaultPlan::by_rule(IoKind kind) {
  for (FaultRule& rule : rules_) {
    if (rule.kind != kind || rule.count == 0) continue;
    if (rule.after > 0) {
      --rule.after;
      continue;
    }
    --rule.count;
    return rule.fault;
  }
  return std::nullopt;
}

// The mutex is held.
std::optional<Fault> FaultPlan::by_chance(IoKind kind) {
  if (chances_.empty() || chance_kind_.value_or(kind) != kind || random_() % 1000 >= per_thousand_)
    return std::nullopt;
  const Fault fault = chances_[random_() % chances_.size()];
  return possible(fault, kind) ? std::optional(fault) : std::nullopt;
}

FaultyEngine::FaultyEngine(std::unique_ptr<IoEngine> below, size_t file_count,
                           std::shared_ptr<FaultPlan> plan, const Clock& clock)
    : below_(std::move(below)), file_count_(file_count), plan_(std::move(plan)), clock_(clock) {
  set_note(below_->note() + ", with faults");
}

Status FaultyEngine::submit(std::span<const IoOp> ops) {
  // All at once, before the engine below gets them one by one.
  if (Status status = check_ops(ops, file_count_); !status.ok()) return status;
  for (const IoOp& op : ops) {
    if (Status status = start(op); !status.ok()) return status;
    ++pending_;
  }
  return {};
}

Status FaultyEngine::start(const IoOp& op) {
  const std::optional<Fault> fault = plan_->next(op.kind);
  if (!fault) return send(op, fault, false);
  switch (*fault) {
    case Fault::kEio:
    case Fault::kNoSpace:
      ready_.push_back(done(op, StatusCode::kIo, *fault == Fault::kEio ? EIO : ENOSPC));
      return {};
    case Fault::kShort:
    case Fault::kTorn:
      if (!first_half(op).buffer.empty()) return send(first_half(op), fault, false);
      ready_.push_back(half_done(op, *fault));
      return {};
    case Fault::kMisdirected:
      return send(misdirected(op), fault, false);
    case Fault::kDelay: {
      const auto [overdue_at, send_at] = plan_->delay(clock_.now(), op.deadline);
      held_.push_back({op, overdue_at, send_at});
      return {};
    }
    case Fault::kBitFlip:
    case Fault::kDuplicate:
      break;
  }
  return send(op, fault, false);
}

Status FaultyEngine::send(const IoOp& op, std::optional<Fault> fault, bool late) {
  IoOp below = op;
  below.tag = next_tag_++;
  if (late) below.deadline = kNoDeadline;
  Status status = below_->submit({&below, 1});
  if (status.ok()) sent_[below.tag] = {op, fault, late};
  return status;
}

Result<size_t> FaultyEngine::poll(std::span<Completion> out, Nanoseconds timeout) {
  constexpr Nanoseconds kLookAgain = std::chrono::milliseconds(1);
  const auto end = wait_end(timeout);
  Nanoseconds left = timeout;
  do {
    if (Status status = serve_held(); !status.ok()) return status;
    Nanoseconds wait = ready_.empty() ? std::max(left, Nanoseconds::zero()) : Nanoseconds::zero();
    if (!held_.empty()) wait = std::min(wait, kLookAgain);
    std::array<Completion, 64> some;
    const auto polled = below_->poll(some, wait);
    if (!polled.ok()) return polled.status();
    for (size_t i = 0; i < *polled; ++i) receive(some[i]);
    if (Status status = serve_held(); !status.ok()) return status;
    left = end - std::chrono::steady_clock::now();
  } while (ready_.empty() && !woken_ && left > Nanoseconds::zero());
  woken_ = false;
  return take_completions(ready_, out, pending_);
}

void FaultyEngine::wake() {
  woken_ = true;
  below_->wake();
}

// Expires what is overdue and carries out what is late enough.
Status FaultyEngine::serve_held() {
  const Nanoseconds now = clock_.now();
  for (size_t i = 0; i < held_.size();) {
    Held& held = held_[i];
    if (!held.expired && now >= held.overdue_at) {
      held.expired = true;
      ready_.push_back(expired(held.op));
    }
    if (now < held.send_at) {
      ++i;
      continue;
    }
    if (Status status = send(held.op, Fault::kDelay, held.expired); !status.ok()) return status;
    held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return {};
}

void FaultyEngine::receive(const Completion& below) {
  const auto found = sent_.find(below.tag);
  const Sent& sent = found->second;
  Completion completion = below;
  completion.tag = sent.op.tag;
  if (sent.late) completion = released(sent.op);
  if (sent.fault && completion.code == StatusCode::kOk) damage(sent, &completion);
  ready_.push_back(completion);
  if (completion.event != CompletionEvent::kExpired) sent_.erase(found);
}

// The operation below has succeeded.
void FaultyEngine::damage(const Sent& sent, Completion* completion) {
  const IoOp& op = sent.op;
  switch (*sent.fault) {
    case Fault::kShort:
    case Fault::kTorn:
      *completion = half_done(op, *sent.fault);
      break;
    case Fault::kBitFlip: {
      const uint64_t bit = plan_->random(op.buffer.size() * 8);
      op.buffer[bit / 8] = static_cast<uint8_t>(op.buffer[bit / 8] ^ (1U << (bit % 8)));
      break;
    }
    case Fault::kDuplicate:
      ready_.push_back(*completion);
      ++pending_;  // take_completions will count both
      break;
    default:
      break;
  }
}

IoEngineFactory faulty_engine_factory(std::shared_ptr<FaultPlan> plan, IoEngineFactory below) {
  return [plan = std::move(plan), below = std::move(below)](
             const IoEngineOptions& options, const Clock& clock) -> Result<std::unique_ptr<IoEngine>> {
    auto engine = below(options, clock);
    if (!engine.ok()) return engine.status();
    return std::unique_ptr<IoEngine>(
        std::make_unique<FaultyEngine>(std::move(*engine), options.files.size(), plan, clock));
  };
}

}  // namespace quire::testing
