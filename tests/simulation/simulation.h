// One simulated life of an engine: a few hundred operations drawn from a seed, on a disk that breaks, beside
// a clean twin and a model.
//
// The engine under test runs on a simulated disk and clock, in this thread alone. Its twin has memory for
// everything and no disk, and does what the engine has done. The model is a list of tokens per sequence.
// After every step the two must put out the same bits, and the model's f64 attention must agree; a miss must
// name tokens that a bad read can have cost; an error must be one that a fault explains. Half of the engines
// have a store of blocks on a disk of its own, which outlives them: they are closed, killed or lose their
// power, and open it again. What is adopted must be tokens that its tenant made known, and attend with the
// twin's bits; what was synced on a store's disk without faults must still be there. At the end, on a healed
// disk, everything must be right and nothing may be left over. Thread safety: one thread.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "bindings/engine.h"
#include "tests/simulation/simulated_disk.h"

namespace quire::testing {

struct SimulationResult {
  uint64_t seed = 0;
  std::string failure;       // empty: none was found
  FaultCounts counts;        // of the spill file's disk and the clock
  FaultCounts store_counts;  // of the store's disk
  uint64_t operations = 0;
  uint64_t faults = 0;
  uint64_t refills = 0;
  uint64_t errors = 0;  // that a fault explained
  uint64_t comparisons = 0;
  uint64_t partial_pages = 0;  // read for some of their heads
  uint64_t published_blocks = 0;
  uint64_t adopted_blocks = 0;  // from the store
  uint64_t restarts = 0;
};

// verbose: prints what it does as it goes.
SimulationResult simulate(uint64_t seed, bool verbose);

class Simulation {
 public:
  Simulation(uint64_t seed, bool verbose);
  SimulationResult run();

 private:
  // A sequence in both engines, and what it holds.
  struct Track {
    Sequence* engine = nullptr;
    Sequence* twin = nullptr;
    std::vector<uint32_t> tokens;
    bool same_bits = true;  // no lossy page was decoded and encoded again in one engine alone
    uint64_t tenant = 1;
  };
  // Tokens that a tenant has made known, or tried to.
  struct Known {
    uint64_t tenant;
    std::vector<uint32_t> tokens;
    size_t durable = 0;  // blocks of these that the store had, synced
  };
  // What a step asks of one sequence.
  struct Entry {
    size_t track;
    uint64_t first;
    std::vector<uint32_t> tokens;
    std::vector<uint8_t> wanted;  // rows to attend
  };
  struct StepOutput {
    Status status;
    std::vector<std::vector<float>> out;  // by layer; rows that are not wanted stay 0
    std::vector<std::vector<float>> lse;
  };

  void choose_world();
  void choose_selective();
  void choose_selection();
  void note_partial();
  void choose_faults();
  void choose_store();
  void choose_store_faults();
  void worsen_faults();
  bool open();
  Status open_engine();
  EngineOptions options_of(bool simulated);
  Operation choose_operation();
  void act(Operation operation);
  void finish();
  void check_budgets();
  void check_store();
  size_t publish_patiently(uint64_t blocks);
  void check_nothing_left();

  // Operations.
  void step();
  void batch();
  void replay();
  void abandon();
  void fork();
  void truncate();
  void free();
  void prefetch();
  void flush();
  void refill();
  void idle();
  void publish();
  void adopt();
  void restart();

  // Of the store.
  PrefixChain chain_of(uint64_t tenant, std::span<const uint32_t> tokens) const;
  Known wanted_prefix();
  void publish_track(size_t index);
  bool publishable(const Track& t) const;
  bool adopt_into(Track* t, const Known& wanted);
  bool rebuild_twin(size_t index);
  void judge_adopted(const Known& wanted, uint64_t tokens, bool damage);
  void judge_store_error(const Status& status, const char* what);
  void judge_recovery();
  void note_evictions();
  bool store_is_clean() const;
  bool reopen_engine(bool killed);
  void keep_one_track();

  bool begin_track();
  Entry new_tokens(size_t track, uint64_t count);
  bool run_both(std::vector<Entry> entries, uint64_t window);
  StepOutput run_step(Engine& engine, bool twin, const std::vector<Entry>& entries, uint64_t window,
                      uint32_t layers);
  Status guess(Cache& cache, OpenStep* open, uint32_t layer, const std::vector<uint32_t>& tokens);
  Status run_layer(Engine& engine, bool twin, OpenStep* open, uint32_t layer,
                   const std::vector<Entry>& entries, uint64_t window, StepOutput* output);
  void forgot(const Entry& entry);
  void compare(const std::vector<Entry>& entries, uint64_t window, const StepOutput& ours,
               const StepOutput& theirs);
  void compare_with_model(const Entry& entry, size_t row, uint32_t layer, uint64_t window, const float* out);
  Status refill_missing(const Miss& miss);
  void judge_error(const Status& status, const char* what);
  void judge_miss(const Miss& miss);
  void turn(uint32_t times);
  void start_requests();
  void set_clock();
  void note_clock() { latest_ = std::max(latest_, clock_.now()); }
  uint64_t written_bytes() const { return disk_world_.written_bytes + store_world_.written_bytes; }
  void choose_chances(Operation operation);
  void fail(const std::string& what);
  bool failed() const { return !result_.failure.empty(); }
  Track& track(size_t i) { return tracks_[i]; }
  Track* find_track(const Sequence* sequence);

  uint64_t seed_;
  bool verbose_;
  SimulatedClock clock_;
  DiskWorld disk_world_;
  DiskWorld store_world_;
  DiskImage spill_{0};
  DiskImage stored_{0};
  SimRandom random_;     // of operations; the disk's own is apart, so that faults do not change them
  SimRandom choices_;    // of what attention selects
  SimRandom guesses_;    // of what is read before it is chosen
  Selection selection_;  // of the step at hand
  SimulatedDisk* disk_ = nullptr;
  SimulatedDisk* store_disk_ = nullptr;
  CacheConfig config_;
  uint64_t host_budget_ = 0;
  uint64_t device_budget_ = 0;
  uint64_t nvme_budget_ = 0;
  Eviction eviction_ = Eviction::kNewestFirst;
  uint64_t store_budget_ = 0;  // 0: no store
  bool weak_ids_ = false;      // names of blocks collide all the time
  uint64_t write_budget_ = 0;  // bytes a day, 0: no limit
  Nanoseconds latest_{};       // that the clock has shown in this opening
  Nanoseconds opened_{};       // that it showed at its beginning
  uint64_t written_before_ = 0;
  bool power_lost_ = false;
  std::vector<Known> known_;
  uint64_t evictions_seen_ = 0;  // of this opening
  uint64_t partial_seen_ = 0;
  bool lossless_ = false;
  double tolerance_ = 0;
  uint32_t turns_per_thousand_ = 0;  // chance that the mover gets a turn inside a computation
  uint32_t jumps_per_thousand_ = 0;  // chance that the clock is set before an operation
  uint32_t next_token_ = 1;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Engine> twin_;
  std::vector<Track> tracks_;
  std::vector<Entry> open_;  // of the engine's open step
  SimulationResult result_;

 public:
  // For the executor's callback.
  void computing();
};

}  // namespace quire::testing
