// The composition root: builds one cache out of all folders, in the right order, from one set of options.
//
// The C API is a thin cover over this. Tests reach in here to pass their own clock, io engine or device.
// Thread safety: open and destruction by one thread; between them as kvcache/cache.h says.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>

#include "kvcache/cache.h"
#include "kvcache/device_cpu.h"
#include "kvcache/page_device.h"
#include "kvcache/prefix_cache.h"
#include "offload/io_engine.h"
#include "offload/mover.h"
#include "offload/named_file.h"
#include "offload/persistent_store.h"

namespace quire {

struct EngineOptions {
  CacheConfig config;
  uint64_t device_budget = 0;
  uint64_t host_budget = uint64_t{1} << 30;
  uint64_t nvme_budget = 0;
  std::string nvme_path;
  uint64_t nvme_write_budget_per_day = 0;  // bytes; 0: no limit
  uint32_t nvme_compression = 0;           // level of PageCompressor; 0: none
  std::string store_path;                  // empty: no store
  uint64_t store_budget = 0;
  std::array<uint64_t, 2> model_fingerprint{};
  IoEngineKind io_engine = IoEngineKind::kAuto;
  uint32_t io_depth = 64;
  Nanoseconds io_deadline = std::chrono::seconds(30);
  uint32_t threads = 0;  // 0: one per core
  ParallelForFunction parallel_for = nullptr;
  void* parallel_context = nullptr;
  std::string trace_path;
  std::string access_trace_path;
  Eviction eviction = Eviction::kAuto;
  const Kernels* kernels = nullptr;  // required
  // For tests; nullptr: the real ones.
  const Clock* clock = nullptr;
  IoEngineFactory open_io;
  std::function<Result<std::unique_ptr<NamedFile>>(const std::string& path)> open_store;
  IoEngineFactory open_store_io;
  CpuDeviceOptions device;
  // Opens what pages in device_budget are folded and attended on; empty: these are host memory, and the
  // CPU's.
  PageDeviceFactory open_page_device;
  MoverDrive mover_drive = MoverDrive::kThread;
  uint64_t read_gap = kReadGap;
};

class Engine {
 public:
  static Result<std::unique_ptr<Engine>> open(EngineOptions options);
  // Writes the trace, if there is one; everything else needs no ending.
  Status close();

  Cache& cache() { return *cache_; }
  PrefixCache& prefixes() { return *prefixes_; }
  const PrefixCache& prefixes() const { return *prefixes_; }
  Residency& residency() { return *residency_; }
  const CacheConfig& config() const { return options_.config; }
  const Budget& host_budget() const { return *host_budget_; }
  // nullptr when pages are folded and attended on the CPU alone.
  const PageDevice* page_device() const { return page_device_.get(); }
  PageDevice* page_device() { return page_device_.get(); }
  const Budget* device_budget() const { return device_budget_.get(); }
  const std::array<uint64_t, 2>& model_fingerprint() const { return options_.model_fingerprint; }
  const CacheCounters& counters() const { return counters_; }
  // nullptr when there is only host memory.
  const Mover* mover() const { return mover_.get(); }
  Mover* mover() { return mover_.get(); }
  // "io_uring", "threads" or "none".
  const char* io_name() const { return io_name_; }

 private:
  Engine() = default;
  Status build();
  Status build_page_device();
  Status build_mover(const CacheContext& context);
  Status build_store();
  Status build_prefixes();
  void build_write_budget();
  const Clock& clock() const { return options_.clock != nullptr ? *options_.clock : steady_clock_; }
  CacheContext context();
  Status check_budget() const;
  Status reserve_seal_work();
  Status write_traces() const;

  // In order of construction: what comes later uses what comes before.
  EngineOptions options_;
  SteadyClock steady_clock_;
  CacheCounters counters_;
  std::unique_ptr<Trace> trace_;
  std::unique_ptr<AccessTrace> access_trace_;
  std::unique_ptr<Budget> device_budget_;
  std::unique_ptr<Budget> host_budget_;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<PageDevice> page_device_;
  std::unique_ptr<Stream> copy_stream_;
  BudgetedBytes seal_work_;
  std::unique_ptr<Residency> residency_;
  std::unique_ptr<SharedWriteBudget> write_budget_;  // nullptr: no limit
  const char* io_name_ = "none";                     // static storage
  std::unique_ptr<Mover> mover_;
  std::unique_ptr<PinnedRange> pinned_staging_;
  std::unique_ptr<Cache> cache_;
  std::unique_ptr<PersistentStore> store_;
  std::unique_ptr<PrefixCache> prefixes_;
};

// The kernels that QUIRE_ISA names (its value, or nullptr when unset), else the fastest of this machine.
Result<const Kernels*> select_kernels(const char* isa);

}  // namespace quire
