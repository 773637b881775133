// A disk in memory, as an io engine that completes in an order drawn from a seed and breaks in every way
// there is. Waiting costs no real time: poll sets the simulated clock to the next thing that happens.
//
//   fault         the engine is told                   what the disk does
//   error         EIO                                  nothing
//   no space      ENOSPC                               nothing
//   short         an error                             moves some of the first blocks
//   torn          success                              writes some of the first blocks
//   bit flip      success                              one bit is wrong, in the buffer or at rest
//   misdirected   success                              reads or writes some blocks beside the right place
//   lost          success                              writes nothing: what stood there before stays
//   late          its deadline passed, later released  as asked, but only at the release
//   hung          the same                             the release comes when the disk is healed
//   twice         success, and again later             as asked
//
// Beside the disk's image stands a second one that silent faults leave alone. A read that ends well with the
// second image's bytes is a good one; every other is a bad read, and only bad reads may cost a page. An image
// may outlive its disks: then it also knows what a machine that loses its power would find, which is what was
// synced and, block by block, some of what was written since. A sync can fail, come late, hang or lie.
// Thread safety: one thread.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "offload/io_engine.h"
#include "tests/simulation/faults.h"
#include "tests/simulation/random.h"
#include "tests/simulation/simulated_clock.h"

namespace quire::testing {

// What a simulation and one of its disks share. The clock outlives the world.
struct DiskWorld {
  DiskWorld(uint64_t seed, SimulatedClock& its_clock) : random(seed), clock(its_clock) {}

  SimRandom random;
  SimulatedClock& clock;
  std::array<uint32_t, kDiskFaults> per_thousand{};  // chance of each fault, by request of its kind
  uint32_t factor = 1;                               // of the chances; operations that ask little meet more
  Operation operation = Operation::kIdle;            // that hits are counted under
  FaultCounts counts;
  uint64_t bad_reads = 0;      // see above
  uint64_t written_bytes = 0;  // that writes were asked for
  uint64_t empty_polls = 0;    // in a row
  bool stuck = false;          // somebody waits for what never comes
  bool healed = false;         // no more faults
  // Operations until the process is dead to the disk: they then fail and do nothing.
  uint64_t dies_after = UINT64_MAX;
};

// The bytes of a disk.
class DiskImage {
 public:
  explicit DiskImage(uint64_t bytes) : bytes_(bytes), truth_(bytes) {}

  uint64_t size() const { return bytes_.size(); }
  void resize(uint64_t bytes);
  std::span<uint8_t> bytes() { return bytes_; }
  std::span<uint8_t> truth() { return truth_; }
  // Keeps what a loss of power would need from here on.
  void remember() { remembers_ = true; }
  void written(uint64_t offset, std::span<const uint8_t> bytes);
  void synced();
  void lose_power(SimRandom& random);

 private:
  struct Write {
    uint64_t offset;
    std::vector<uint8_t> bytes;
  };
  std::vector<uint8_t> bytes_;
  std::vector<uint8_t> truth_;
  std::vector<uint8_t> durable_;
  std::vector<Write> unsynced_;
  bool remembers_ = false;
};

class SimulatedDisk final : public IoEngine {
 public:
  // World and image outlive the disk.
  SimulatedDisk(DiskWorld& world, DiskImage& image) : world_(world), image_(image) {}
  // Of what is under way some is still done.
  ~SimulatedDisk() override;

  Status submit(std::span<const IoOp> ops) override;
  Result<size_t> poll(std::span<Completion> out, Nanoseconds timeout) override;
  void wake() override { woken_ = true; }
  size_t pending() const override { return pending_; }
  std::string_view name() const override { return "simulated"; }

  // Hung requests come back soon.
  void release_hung();

 private:
  struct Flight {
    IoOp op;
    std::optional<SimFault> fault;
    Nanoseconds ends{};  // on the clock's elapsed time
    bool expired = false;
    bool repeated = false;  // only its completion, a second time
  };

  std::optional<SimFault> draw(IoKind kind);
  Nanoseconds latency(std::optional<SimFault> fault);
  Nanoseconds expires(const Flight& flight) const;
  void end(Flight flight);
  void transfer(const Flight& flight, uint64_t offset, uint64_t bytes);
  Completion sync(const Flight& flight);
  Completion outcome(const Flight& flight);
  bool step(Nanoseconds until);

  DiskWorld& world_;
  DiskImage& image_;
  std::vector<Flight> flights_;
  std::deque<Completion> ready_;
  size_t pending_ = 0;
  bool woken_ = false;
};

}  // namespace quire::testing
