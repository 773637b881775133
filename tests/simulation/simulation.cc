#include "tests/simulation/simulation.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <tuple>

#include "tests/simulation/simulated_store.h"
#include "tests/simulation/tokens.h"

namespace quire::testing {
namespace {

constexpr uint64_t kLeastOperations = 200;
constexpr uint64_t kMostOperations = 1000;
constexpr uint64_t kLeastFaults = 3;
// The first has sections so large that one is read without its neighbours.
constexpr std::array<CodecId, 3> kCodecs{CodecId::kBf16, CodecId::kInt8, CodecId::kRot4};
constexpr std::array<double, 3> kTolerances{2e-3, .05, .5};
constexpr uint64_t kSelectiveLives = 3;  // one life of so many attends chosen pages
constexpr uint32_t kStepTokens = 64;
constexpr uint64_t kHoursOfDay = 24;
constexpr uint64_t kLeastBucket = uint64_t{1} << 20;  // an hour's share of the least write budget

// Of the chances of faults, by Operation: those that ask little of a disk meet more of them.
constexpr std::array<uint32_t, kOperationCount> kSpillFactors{1, 1, 1, 4, 2, 2, 4, 2, 2, 4, 4, 6, 6, 10};
constexpr std::array<uint32_t, kOperationCount> kStoreFactors{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 12, 1};

// The engine's executor: one thread, and the mover may get turns between the items.
void run_inline(void* context, uint32_t n, void (*fn)(void* arg, uint32_t i), void* arg) {
  auto* simulation = static_cast<Simulation*>(context);
  for (uint32_t i = 0; i < n; ++i) {
    if (simulation != nullptr) simulation->computing();
    fn(arg, i);
  }
}

}  // namespace

SimulationResult simulate(uint64_t seed, bool verbose) { return Simulation(seed, verbose).run(); }

Simulation::Simulation(uint64_t seed, bool verbose)
    : seed_(seed),
      verbose_(verbose),
      disk_world_(seed * 2 + 1, clock_),
      store_world_(seed * 2 + 1, clock_),
      random_(seed * 2),
      choices_(seed * 2 + 1),
      guesses_(seed * 2 + 1) {
  result_.seed = seed;
}

void Simulation::fail(const std::string& what) {
  if (failed()) return;
  result_.failure = "operation " + std::to_string(result_.operations) + " (" +
                    std::string(kOperationNames[static_cast<size_t>(disk_world_.operation)]) + "): " + what;
}

// ---- the world ----

void Simulation::choose_world() {
  const size_t codec = random_.chance(500) ? 0 : random_.between(1, 2);
  lossless_ = codec == 0;
  tolerance_ = kTolerances[codec];
  config_.layers = static_cast<uint32_t>(random_.between(1, 3));
  config_.kv_heads = static_cast<uint32_t>(random_.between(1, 2));
  config_.query_heads = 2;
  config_.head_dim = 32;
  config_.page_tokens = 32;
  config_.recent_pages = random_.chance(250) ? 1 : 0;
  config_.max_step_tokens = kStepTokens;
  config_.layer.assign(config_.layers,
                       LayerConfig{kCodecs[codec], kCodecs[codec], {}, {}, {}, {}, 0, {}, {}, {}, {}});
  turns_per_thousand_ = static_cast<uint32_t>(random_.between(0, 300));
  if (random_.chance(200)) device_budget_ = uint64_t{64} << 10;
  eviction_ = static_cast<Eviction>(random_.between(1, kEvictions.size() - 1));
  if (config_.recent_pages == 0 && random_.chance(700)) {
    store_budget_ = 1;  // in choose_store, when the shape of its blocks is known
    weak_ids_ = random_.chance(400);
  }
  if (random_.chance(200)) write_budget_ = random_.between(1, 8) * kHoursOfDay * kLeastBucket;
  if (seed_ % kSelectiveLives == 0) choose_selective();
  nvme_budget_ = random_.chance(750) ? uint64_t{4} << 20 : random_.between(4, 10) * (uint64_t{128} << 10);
}

// Most steps attend chosen pages, by each kv head for itself.
void Simulation::choose_selective() {
  config_.digests = true;
  config_.kv_heads = config_.query_heads = 4;
  for (LayerConfig& layer : config_.layer) layer.key_codec = layer.value_codec = kCodecs[0];
  lossless_ = true;
  tolerance_ = kTolerances[0];
  if (device_budget_ != 0) device_budget_ = uint64_t{256} << 10;
}

// Some disks only report what goes wrong when they write: then no page may ever be lost.
void Simulation::choose_faults() {
  const bool reported_writes_only = random_.chance(300);
  if (!reported_writes_only && random_.chance(400)) jumps_per_thousand_ = 30;
  const uint64_t kinds = random_.between(3, 7);
  for (uint64_t i = 0; i < kinds; ++i) {
    auto fault = static_cast<SimFault>(random_.below(kDiskFaults));
    if (reported_writes_only) {
      constexpr std::array<SimFault, 6> kReported{SimFault::kWriteError, SimFault::kWriteNoSpace,
                                                  SimFault::kWriteShort, SimFault::kWriteLate,
                                                  SimFault::kWriteTwice, SimFault::kReadTwice};
      fault = kReported[random_.below(kReported.size())];
    }
    const bool hangs = fault == SimFault::kReadHung || fault == SimFault::kWriteHung;
    disk_world_.per_thousand[static_cast<size_t>(fault)] =
        static_cast<uint32_t>(random_.between(10, hangs ? 60 : 200));
  }
}

// Of stores some meet no fault but the end of a process or machine: they must lose nothing that was synced.
void Simulation::choose_store_faults() {
  if (random_.chance(300)) return;
  const uint64_t kinds = random_.between(2, 6);
  for (uint64_t i = 0; i < kinds; ++i) {
    const auto fault = static_cast<SimFault>(random_.below(kDiskFaults));
    const bool hangs = fault == SimFault::kReadHung || fault == SimFault::kWriteHung;
    store_world_.per_thousand[static_cast<size_t>(fault)] =
        static_cast<uint32_t>(random_.between(10, hangs ? 60 : 150));
  }
}

// A disk that few faults have hit so far gets worse; where it is hardly used, the clock must do.
void Simulation::worsen_faults() {
  jumps_per_thousand_ = 100;
  for (uint32_t& chance : disk_world_.per_thousand) chance = chance == 0 ? 0 : 500;
}

EngineOptions Simulation::options_of(bool simulated) {
  EngineOptions options;
  options.config = config_;
  options.kernels = &best_kernels();
  options.parallel_for = run_inline;
  options.threads = 1;
  options.device.lazy = true;
  options.host_budget = uint64_t{64} << 20;
  options.clock = &clock_;
  if (!simulated) return options;
  options.parallel_context = this;
  options.mover_drive = MoverDrive::kCallers;
  options.device_budget = device_budget_;
  options.nvme_budget = nvme_budget_;
  options.nvme_write_budget_per_day = write_budget_;
  options.eviction = eviction_;
  options.read_gap = 0;
  options.nvme_path = "/tmp";
  options.io_deadline = std::chrono::milliseconds(50);
  options.open_io = [this](const IoEngineOptions&, const Clock&) -> Result<std::unique_ptr<IoEngine>> {
    spill_ = DiskImage(nvme_budget_);
    auto disk = std::make_unique<SimulatedDisk>(disk_world_, spill_);
    disk_ = disk.get();
    return std::unique_ptr<IoEngine>(std::move(disk));
  };
  if (store_budget_ == 0) return options;
  options.store_path = "simulated";
  options.store_budget = store_budget_;
  options.model_fingerprint = {1, 2};
  options.open_store = [this](const std::string&) -> Result<std::unique_ptr<NamedFile>> {
    return std::unique_ptr<NamedFile>(std::make_unique<SimulatedFile>(stored_));
  };
  options.open_store_io = [this](const IoEngineOptions&, const Clock&) -> Result<std::unique_ptr<IoEngine>> {
    auto disk = std::make_unique<SimulatedDisk>(store_world_, stored_);
    store_disk_ = disk.get();
    return std::unique_ptr<IoEngine>(std::move(disk));
  };
  return options;
}

namespace {

// The smallest budget, in blocks of 4 KiB, that an engine opens with; remembered by what it depends on.
uint64_t smallest_host_budget(EngineOptions options) {
  using Key = std::tuple<uint32_t, uint32_t, uint32_t, CodecId, uint64_t, uint64_t>;
  static std::map<Key, uint64_t> known;
  const CacheConfig& config = options.config;
  const Key key{config.layers,         config.kv_heads,     config.recent_pages, config.layer[0].key_codec,
                options.device_budget, options.store_budget};
  if (const auto found = known.find(key); found != known.end()) return found->second;
  options.parallel_context = nullptr;
  // Disks of its own: what it draws must not depend on what is known already.
  SimulatedClock clock;
  DiskWorld world(0, clock);
  DiskImage spill(options.nvme_budget);
  DiskImage stored(0);
  const auto disk_of = [&](DiskImage& image) {
    return [&](const IoEngineOptions&, const Clock&) -> Result<std::unique_ptr<IoEngine>> {
      return std::unique_ptr<IoEngine>(std::make_unique<SimulatedDisk>(world, image));
    };
  };
  options.clock = &clock;
  options.open_io = disk_of(spill);
  options.open_store_io = disk_of(stored);
  options.open_store = [&](const std::string&) -> Result<std::unique_ptr<NamedFile>> {
    return std::unique_ptr<NamedFile>(std::make_unique<SimulatedFile>(stored));
  };
  uint64_t refused = 0;
  uint64_t opened = uint64_t{1} << 14;
  while (opened - refused > 1) {
    const uint64_t middle = refused + (opened - refused) / 2;
    options.host_budget = middle << 12;
    (Engine::open(options).ok() ? opened : refused) = middle;
  }
  return known[key] = opened << 12;
}

}  // namespace

bool Simulation::open() {
  Result<std::unique_ptr<Engine>> twin = Engine::open(options_of(false));
  if (!twin.ok()) {
    fail("the twin does not open: " + twin.status().message());
    return false;
  }
  twin_ = std::move(*twin);
  choose_store();
  host_budget_ = smallest_host_budget(options_of(true)) + random_.below(4) * (uint64_t{64} << 10);
  store_world_.healed = true;
  const Status opened = open_engine();
  store_world_.healed = false;
  if (!opened.ok()) {
    fail("an engine does not open: " + opened.message());
    return false;
  }
  if (verbose_) {
    std::printf(
        "world: %u layers, %u kv heads, codec %.*s, recent %u, host %llu KiB, device %llu KiB, disk %llu "
        "KiB\n",
        config_.layers, config_.kv_heads,
        static_cast<int>(find_codec(config_.layer[0].key_codec)->name.size()),
        find_codec(config_.layer[0].key_codec)->name.data(), config_.recent_pages,
        static_cast<unsigned long long>(host_budget_ >> 10),
        static_cast<unsigned long long>(device_budget_ >> 10),
        static_cast<unsigned long long>(nvme_budget_ >> 10));
    for (size_t i = 0; i < kDiskFaults; ++i) {
      if (disk_world_.per_thousand[i] > 0) {
        std::printf("  %.*s: %u of 1000\n", static_cast<int>(kFaultNames[i].size()), kFaultNames[i].data(),
                    disk_world_.per_thousand[i]);
      }
    }
  }
  return true;
}

// Room for a few blocks, so that some have to go. Needs the twin, which knows the shape of its blocks.
void Simulation::choose_store() {
  if (store_budget_ == 0) return;
  store_budget_ = store_shape(twin_->config()).bytes_for(random_.between(6, 24));
  stored_.remember();
}

Status Simulation::open_engine() {
  EngineOptions options = options_of(true);
  options.host_budget = host_budget_;
  Result<std::unique_ptr<Engine>> engine = Engine::open(std::move(options));
  if (!engine.ok()) return engine.status();
  engine_ = std::move(*engine);
  evictions_seen_ = 0;
  partial_seen_ = 0;
  opened_ = latest_ = clock_.now();
  written_before_ = written_bytes();
  return {};
}

// ---- the mover's turns ----

void Simulation::turn(uint32_t times) {
  for (uint32_t i = 0; i < times; ++i) engine_->mover()->turn(std::chrono::microseconds(random_.below(500)));
}

void Simulation::computing() {
  if (engine_ != nullptr && random_.chance(turns_per_thousand_)) turn(1);
}

// So that reads and writes are under way whatever the operation is.
void Simulation::start_requests() {
  if (random_.chance(300)) {
    const Status status = engine_->cache().flush();
    if (!status.ok()) judge_error(status, "a flush beforehand");
  }
  const Track& t = track(random_.below(tracks_.size()));
  const auto layer = static_cast<uint32_t>(random_.below(config_.layers));
  if (!engine_->cache().prefetch(t.engine, layer, random_.below(t.tokens.size() + 1), 256).ok())
    fail("a prefetch fails");
}

void Simulation::set_clock() {
  const bool forwards = random_.chance(500);
  const Nanoseconds by = std::chrono::milliseconds(random_.between(1, random_.chance(500) ? 100 : 1000000));
  note_clock();
  clock_.jump(forwards ? by : -by);
  note_clock();
  disk_world_.counts.add(forwards ? SimFault::kClockForwards : SimFault::kClockBackwards,
                         disk_world_.operation);
}

// ---- judging ----

// An error needs a reason: a fault that hit, or a disk that is full.
void Simulation::judge_error(const Status& status, const char* what) {
  if (disk_world_.stuck) return fail("somebody waits for what never comes");
  ++result_.errors;
  const TierStats tier = engine_->mover()->tier_stats();
  // What may not be written any more today has no room on the disk either.
  const bool spent = write_budget_ != 0 && status.code() == StatusCode::kOverBudget;
  const bool disk_full = spent || tier.used_bytes + (uint64_t{512} << 10) > tier.capacity;
  // The least budget is one for a single sequence.
  const bool crowded = tracks_.size() > 1 && status.code() == StatusCode::kOverBudget;
  const bool faulty = disk_world_.counts.sum() > 0 || crowded;
  const bool disk_error = status.code() == StatusCode::kIo || status.code() == StatusCode::kDeadline ||
                          status.code() == StatusCode::kOverBudget;
  if (verbose_) {
    std::printf("    %s: %s\n    host budget:", what, status.message().c_str());
    for (size_t i = 0; i < kUseCount; ++i) {
      const auto use = static_cast<Use>(i);
      std::printf(" %s %llu,", std::string(use_name(use)).c_str(),
                  static_cast<unsigned long long>(engine_->host_budget().used(use)));
    }
    std::printf(" peak %llu\n", static_cast<unsigned long long>(engine_->host_budget().peak()));
    std::printf("    disk: %llu of %llu bytes handed out, %llu live\n",
                static_cast<unsigned long long>(tier.used_bytes),
                static_cast<unsigned long long>(tier.capacity),
                static_cast<unsigned long long>(tier.live_bytes));
  }
  if (!disk_error) return fail(std::string(what) + " reports what no fault explains: " + status.message());
  if (disk_world_.healed && !disk_full && !crowded)
    return fail(std::string(what) + " fails on a healed disk: " + status.message());
  if (!faulty && !disk_full) return fail(std::string(what) + " fails on a clean disk: " + status.message());
  // What hangs for good is put right sooner or later.
  if (random_.chance(500)) disk_->release_hung();
}

void Simulation::judge_miss(const Miss& miss) {
  if (verbose_) {
    std::printf("    miss: layer %u, tokens %llu + %llu\n", miss.layer,
                static_cast<unsigned long long>(miss.first), static_cast<unsigned long long>(miss.count));
  }
  if (disk_world_.stuck) return fail("somebody waits for what never comes");
  if (disk_world_.bad_reads == 0) fail("tokens are reported lost although no read went wrong");
}

void Simulation::check_budgets() {
  if (engine_->host_budget().peak() > host_budget_) fail("host_budget was exceeded");
  const Budget* device = engine_->device_budget();
  if (device != nullptr && device->peak() > device_budget_) fail("device_budget was exceeded");
  const TierStats tier = engine_->mover()->tier_stats();
  if (tier.used_bytes > nvme_budget_ || tier.live_bytes > tier.used_bytes) fail("nvme_budget was exceeded");
  if (disk_world_.stuck || store_world_.stuck) fail("somebody waits for what never comes");
  note_clock();
  const auto days = static_cast<double>((latest_ - opened_).count()) / 86400e9;
  const double most = static_cast<double>(write_budget_) * (days + 1.0 / kHoursOfDay);
  if (write_budget_ != 0 && static_cast<double>(written_bytes() - written_before_) > most + 1)
    fail("of nvme_write_budget_per_day " + std::to_string(static_cast<uint64_t>(most)) +
         " bytes could be written, and were " + std::to_string(written_bytes() - written_before_));
  if (store_budget_ != 0 && stored_.size() > store_budget_) fail("store_budget was exceeded");
  const CacheCounts ours = engine_->cache().counts();
  const CacheCounts theirs = twin_->cache().counts();
  if (ours.sequences != theirs.sequences || ours.sequences != tracks_.size())
    fail("the engine counts other sequences than there are");
  for (const Track& t : tracks_) {
    if (engine_->cache().length(t.engine) != t.tokens.size()) fail("a sequence has another length");
  }
}

// ---- the end ----

void Simulation::finish() {
  disk_world_.healed = true;
  store_world_.healed = true;
  disk_world_.operation = Operation::kIdle;
  disk_->release_hung();
  if (store_disk_ != nullptr) store_disk_->release_hung();
  turn(64);
  clock_.advance(std::chrono::seconds(1));
  turn(64);
  // A healed disk may be full all the same: then the longest sequences go until the rest has room.
  for (size_t i = 0; i < tracks_.size() && !failed(); ++i) {
    if (write_budget_ != 0) clock_.advance(std::chrono::hours(kHoursOfDay));
    run_both({new_tokens(i, 1)}, 0);
  }
  check_budgets();
  if (!failed() && store_budget_ != 0) check_store();
  if (!failed()) check_nothing_left();
}

void Simulation::check_nothing_left() {
  while (!tracks_.empty()) {
    if (!engine_->cache().free(tracks_.back().engine).ok()) fail("a sequence cannot be freed");
    tracks_.pop_back();
  }
  for (int i = 0; i < 200; ++i) {
    disk_->release_hung();
    engine_->mover()->turn(std::chrono::milliseconds(10));
  }
  const TierStats tier = engine_->mover()->tier_stats();
  {
    ResidencyLock lock = engine_->residency().lock();
    const ResidencyCounts& counts = engine_->residency().counts(lock);
    if (counts.pages != 0 || counts.memory_bytes[0] != 0 || counts.memory_bytes[1] != 0 ||
        counts.disk_pages != 0)
      fail("pages are left when all sequences are gone");
  }
  if (tier.used_bytes != 0 || tier.live_bytes != 0) {
    fail("the disk tier holds " + std::to_string(tier.used_bytes) + " bytes, " +
         std::to_string(tier.live_bytes) + " of them live, when all sequences are gone");
  }
  const Budget& host = engine_->host_budget();
  for (const Use use : {Use::kPages, Use::kTails}) {
    if (host.used(use) != 0)
      fail(std::string(use_name(use)) + " still holds " + std::to_string(host.used(use)) + " bytes");
  }
  const Budget* device = engine_->device_budget();
  if (device != nullptr && device->used(Use::kPages) != 0) fail("the device still holds pages");
  if (Status status = engine_->close(); !status.ok()) fail("close fails: " + status.message());
  if (host.used(Use::kStaging) != 0 || host.used(Use::kWork) != 0) fail("close leaves memory behind");
}

void Simulation::choose_chances(Operation operation) {
  disk_world_.operation = operation;
  store_world_.operation = operation;
  disk_world_.factor = kSpillFactors[static_cast<size_t>(operation)];
  store_world_.factor = kStoreFactors[static_cast<size_t>(operation)];
}

SimulationResult Simulation::run() {
  choose_world();
  choose_faults();
  choose_store_faults();
  if (!open() || !begin_track()) return result_;
  while (!failed()) {
    const bool enough = result_.operations >= kLeastOperations && disk_world_.counts.sum() >= kLeastFaults;
    if (enough || result_.operations >= kMostOperations) break;
    if (result_.operations == kLeastOperations) worsen_faults();
    const Operation operation = choose_operation();
    ++result_.operations;
    choose_chances(operation);
    if (verbose_) {
      const std::string_view name = kOperationNames[static_cast<size_t>(operation)];
      std::printf("%4llu %.*s\n", static_cast<unsigned long long>(result_.operations),
                  static_cast<int>(name.size()), name.data());
    }
    if (random_.chance(std::min(jumps_per_thousand_ * disk_world_.factor, 400U))) set_clock();
    if (random_.chance(400)) start_requests();
    turn(static_cast<uint32_t>(random_.below(3)));
    act(operation);
    if (failed()) break;
    turn(static_cast<uint32_t>(random_.below(3)));
    check_budgets();
  }
  if (!failed()) finish();
  result_.counts = disk_world_.counts;
  result_.store_counts = store_world_.counts;
  result_.faults = disk_world_.counts.sum() + store_world_.counts.sum();
  return result_;
}

}  // namespace quire::testing
