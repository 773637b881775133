#include "tests/simulation/simulated_disk.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "offload/io_wait.h"

namespace quire::testing {
namespace {

constexpr uint64_t kBlock = 4096;
constexpr uint64_t kStuckPolls = 20000;
constexpr uint32_t kMostPerThousand = 400;  // by a factor
constexpr Nanoseconds kNever = Nanoseconds::max();

bool is_late(std::optional<SimFault> fault) {
  return fault == SimFault::kReadLate || fault == SimFault::kWriteLate || fault == SimFault::kReadHung ||
         fault == SimFault::kWriteHung;
}

bool is_hung(std::optional<SimFault> fault) {
  return fault == SimFault::kReadHung || fault == SimFault::kWriteHung;
}

bool is_silent(std::optional<SimFault> fault) {
  return fault == SimFault::kWriteTorn || fault == SimFault::kWriteBitFlip ||
         fault == SimFault::kWriteMisdirected || fault == SimFault::kWriteLost;
}

// Faults that a sync can have.
bool syncs_with(SimFault fault) {
  return fault == SimFault::kWriteError || fault == SimFault::kWriteNoSpace ||
         fault == SimFault::kWriteLost || fault == SimFault::kWriteLate || fault == SimFault::kWriteHung ||
         fault == SimFault::kWriteTwice;
}

}  // namespace

// ---- the image ----

void DiskImage::resize(uint64_t bytes) {
  bytes_.resize(bytes);
  truth_.resize(bytes);
  if (remembers_) durable_.resize(bytes);
}

void DiskImage::written(uint64_t offset, std::span<const uint8_t> bytes) {
  if (remembers_) unsynced_.push_back({offset, {bytes.begin(), bytes.end()}});
}

void DiskImage::synced() {
  if (!remembers_) return;
  durable_ = bytes_;
  unsynced_.clear();
}

// In any order: each block of each write since the last sync has arrived or not.
void DiskImage::lose_power(SimRandom& random) {
  bytes_ = durable_;
  for (const Write& write : unsynced_) {
    for (uint64_t at = 0; at < write.bytes.size(); at += kBlock) {
      if (random.chance(500)) std::memcpy(bytes_.data() + write.offset + at, write.bytes.data() + at, kBlock);
    }
  }
  truth_ = bytes_;
  synced();
}

// ---- the disk ----

SimulatedDisk::~SimulatedDisk() {
  for (Flight& flight : flights_) {
    const bool moves = flight.op.kind == IoKind::kWrite && !flight.repeated;
    if (moves && world_.random.chance(500)) static_cast<void>(outcome(flight));
  }
}

std::optional<SimFault> SimulatedDisk::draw(IoKind kind) {
  if (world_.healed) return std::nullopt;
  const size_t first = kind == IoKind::kRead ? 0 : kReadFaults;
  const size_t last = kind == IoKind::kRead ? kReadFaults : kDiskFaults;
  for (size_t i = first; i < last; ++i) {
    const uint32_t chance = world_.per_thousand[i];
    if (!world_.random.chance(std::max(chance, std::min(chance * world_.factor, kMostPerThousand)))) continue;
    const auto fault = static_cast<SimFault>(i);
    if (kind == IoKind::kSync && !syncs_with(fault)) continue;
    world_.counts.add(fault, world_.operation);
    return fault;
  }
  return std::nullopt;
}

Nanoseconds SimulatedDisk::latency(std::optional<SimFault> fault) {
  if (is_hung(fault)) return kNever;
  const std::chrono::microseconds usual(world_.random.between(20, 2000));
  if (!is_late(fault)) return usual;
  return std::chrono::milliseconds(world_.random.between(60, 400));
}

Status SimulatedDisk::submit(std::span<const IoOp> ops) {
  if (Status status = check_ops(ops, 1); !status.ok()) return status;
  for (const IoOp& op : ops) {
    const bool dead = world_.dies_after == 0;
    if (!dead && world_.dies_after != UINT64_MAX) --world_.dies_after;
    if (op.offset % kBlock != 0 || op.buffer.size() % kBlock != 0 ||
        op.offset + op.buffer.size() > image_.size()) {
      return invalid("the simulated disk was asked for bytes it does not have, or for no whole blocks");
    }
    if (op.kind == IoKind::kWrite && !dead) world_.written_bytes += op.buffer.size();
    Flight flight{op, dead ? SimFault::kKilled : draw(op.kind)};
    const Nanoseconds takes = latency(flight.fault);
    flight.ends = takes == kNever ? kNever : world_.clock.elapsed() + takes;
    flights_.push_back(flight);
    ++pending_;
  }
  return {};
}

void SimulatedDisk::release_hung() {
  for (Flight& flight : flights_) {
    if (flight.ends != kNever) continue;
    flight.ends = world_.clock.elapsed() + std::chrono::microseconds(world_.random.between(1, 5000));
  }
}

// When the clock will show the flight's deadline, in elapsed time.
Nanoseconds SimulatedDisk::expires(const Flight& flight) const {
  if (flight.expired || flight.repeated || flight.op.deadline == kNoDeadline) return kNever;
  return world_.clock.elapsed() + (flight.op.deadline - world_.clock.now());
}

// The disk's own act, faults included.
void SimulatedDisk::transfer(const Flight& flight, uint64_t offset, uint64_t bytes) {
  const IoOp& op = flight.op;
  if (op.kind == IoKind::kRead) {
    std::memcpy(op.buffer.data(), image_.bytes().data() + offset, bytes);
    return;
  }
  const std::span<uint8_t> there = image_.bytes().subspan(offset, bytes);
  if (flight.fault != SimFault::kWriteLost) std::memcpy(there.data(), op.buffer.data(), bytes);
  const bool asked = offset == op.offset && bytes == op.buffer.size();
  const bool silent = is_silent(flight.fault);
  std::memcpy(image_.truth().data() + (silent ? op.offset : offset), op.buffer.data(),
              silent ? op.buffer.size() : bytes);
  if (flight.fault == SimFault::kWriteBitFlip && asked) {
    there[world_.random.below(bytes)] ^= static_cast<uint8_t>(1U << world_.random.below(8));
  }
  if (flight.fault != SimFault::kWriteLost) image_.written(offset, there);
}

// Moves the bytes and says how that went.
Completion SimulatedDisk::outcome(const Flight& flight) {
  const IoOp& op = flight.op;
  if (flight.fault == SimFault::kKilled) return done(op, StatusCode::kIo, EIO);
  if (op.kind == IoKind::kSync) return sync(flight);
  const uint64_t blocks = op.buffer.size() / kBlock;
  const uint64_t some = world_.random.below(blocks) * kBlock;
  uint64_t offset = op.offset;
  uint64_t bytes = op.buffer.size();
  switch (flight.fault.value_or(SimFault::kClockForwards)) {
    case SimFault::kReadError:
    case SimFault::kWriteError:
      return done(op, StatusCode::kIo, EIO);
    case SimFault::kWriteNoSpace:
      return done(op, StatusCode::kIo, ENOSPC);
    case SimFault::kReadShort:
      transfer(flight, offset, some);
      return done(op, StatusCode::kIo, 0);
    case SimFault::kWriteShort:
      transfer(flight, offset, some);
      return done(op, StatusCode::kIo, EIO);
    case SimFault::kWriteTorn:
      bytes = some;
      break;
    case SimFault::kReadMisdirected:
    case SimFault::kWriteMisdirected: {
      const uint64_t by = world_.random.between(1, 8) * kBlock;
      if (offset >= by) {
        offset -= by;
      } else if (offset + bytes + by <= image_.size()) {
        offset += by;
      }
      break;
    }
    default:
      break;
  }
  transfer(flight, offset, bytes);
  if (flight.fault == SimFault::kReadBitFlip) {
    op.buffer[world_.random.below(bytes)] ^= static_cast<uint8_t>(1U << world_.random.below(8));
  }
  return done(op, StatusCode::kOk);
}

Completion SimulatedDisk::sync(const Flight& flight) {
  if (flight.fault == SimFault::kWriteError) return done(flight.op, StatusCode::kIo, EIO);
  if (flight.fault == SimFault::kWriteNoSpace) return done(flight.op, StatusCode::kIo, ENOSPC);
  if (flight.fault != SimFault::kWriteLost) image_.synced();
  return done(flight.op, StatusCode::kOk);
}

void SimulatedDisk::end(Flight flight) {
  if (flight.repeated) {
    ready_.push_back(done(flight.op, StatusCode::kOk));
    ++pending_;  // poll counts it down
    return;
  }
  const Completion completion = outcome(flight);
  const bool good = completion.code == StatusCode::kOk && !flight.expired &&
                    (flight.op.kind != IoKind::kRead ||
                     std::equal(flight.op.buffer.begin(), flight.op.buffer.end(),
                                image_.truth().begin() + static_cast<std::ptrdiff_t>(flight.op.offset)));
  // An expired read has been counted when it expired.
  if (flight.op.kind == IoKind::kRead && !good && !flight.expired) ++world_.bad_reads;
  ready_.push_back(flight.expired ? released(flight.op) : completion);
  const bool twice = flight.fault == SimFault::kReadTwice || flight.fault == SimFault::kWriteTwice;
  if (!twice) return;
  flight.repeated = true;
  flight.ends = world_.clock.elapsed() + std::chrono::microseconds(world_.random.between(0, 3000));
  flights_.push_back(flight);
}

// Lets the next thing happen, if that is before `until` of the elapsed time.
bool SimulatedDisk::step(Nanoseconds until) {
  size_t next = flights_.size();
  Nanoseconds at = until;
  bool expires_next = false;
  for (size_t i = 0; i < flights_.size(); ++i) {
    const Nanoseconds deadline = expires(flights_[i]);
    const Nanoseconds first = std::min(flights_[i].ends, deadline);
    if (first > at || first == kNever) continue;
    at = first;
    next = i;
    expires_next = deadline < flights_[i].ends;
  }
  if (next == flights_.size()) return false;
  world_.clock.advance(at - world_.clock.elapsed());
  if (expires_next) {
    flights_[next].expired = true;
    if (flights_[next].op.kind == IoKind::kRead) ++world_.bad_reads;
    ready_.push_back(expired(flights_[next].op));
    return true;
  }
  const Flight flight = flights_[next];
  flights_.erase(flights_.begin() + static_cast<std::ptrdiff_t>(next));
  end(flight);
  return true;
}

Result<size_t> SimulatedDisk::poll(std::span<Completion> out, Nanoseconds timeout) {
  const Nanoseconds until = world_.clock.elapsed() + timeout;
  if (world_.empty_polls > kStuckPolls) {
    world_.stuck = true;  // whoever waits is let go by a broken engine
    return Status(StatusCode::kIo, "the simulated disk has been asked in vain for too long");
  }
  // What happened at the same time may come in one poll or in several.
  const size_t most = world_.random.between(1, 4);
  while (ready_.size() < most && step(ready_.empty() && !woken_ ? until : world_.clock.elapsed())) {
  }
  const bool in_vain = ready_.empty() && !woken_;
  if (in_vain) world_.clock.advance(until - world_.clock.elapsed());
  // Somebody who waits asks for long; the simulation's own turns are short.
  if (!in_vain) world_.empty_polls = 0;
  if (in_vain && timeout >= std::chrono::milliseconds(100)) ++world_.empty_polls;
  woken_ = false;
  return take_completions(ready_, out.first(std::min(out.size(), most)), pending_);
}

}  // namespace quire::testing
