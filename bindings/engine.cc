#include "bindings/engine.h"

#include <algorithm>
#include <random>
#include <string_view>
#include <utility>

#include "kvcache/os_memory.h"
#include "offload/extent_header.h"
#include "offload/nvme_tier.h"
#include "offload/open_engine.h"
#include "offload/timed_store_file.h"
#include "quant/digest.h"

namespace quire {
namespace {

constexpr size_t kTraceEvents = size_t{1} << 20;

// What replayed traces show to be best (bench/README.md).
Eviction best_eviction(const CacheConfig& config) {
  return config.digests ? Eviction::kFrequency : Eviction::kNewestFirst;
}

}  // namespace

Result<const Kernels*> select_kernels(const char* isa) {
  if (isa == nullptr || *isa == '\0') return &best_kernels();
  for (size_t i = 0; i < kIsaCount; ++i) {
    const Isa candidate = static_cast<Isa>(i);
    if (std::string_view(isa) != isa_name(candidate)) continue;
    const Kernels* kernels = find_kernels(candidate);
    if (kernels != nullptr) return kernels;
    return Status(StatusCode::kUnsupported, "QUIRE_ISA=" + std::string(isa) +
                                                ": this machine cannot run it; unset it to use " +
                                                isa_name(best_kernels().isa));
  }
  return Status(StatusCode::kUnsupported, "QUIRE_ISA=" + std::string(isa) +
                                              " is unknown; use amx, avx512, avxvnni, avx2, neon or scalar");
}

Result<std::unique_ptr<Engine>> Engine::open(EngineOptions options) {
  std::unique_ptr<Engine> engine(new Engine());
  engine->options_ = std::move(options);
  if (Status status = engine->build(); !status.ok()) return status;
  return engine;
}

Status Engine::close() {
  // The cache and the mover record into the trace until they are gone.
  prefixes_.reset();
  store_.reset();
  cache_.reset();
  pinned_staging_.reset();
  mover_.reset();
  seal_work_.reset();
  return write_traces();
}

Status Engine::write_traces() const {
  if (trace_ != nullptr) {
    if (Status status = trace_->write(options_.trace_path); !status.ok()) return status;
  }
  return access_trace_ == nullptr ? Status() : access_trace_->write(options_.access_trace_path);
}

CacheContext Engine::context() {
  return {options_.config, *options_.kernels, *residency_,
          *host_budget_,   *executor_,        clock(),
          counters_,       trace_.get(),      reinterpret_cast<float*>(seal_work_.data())};
}

// Checked when everything of fixed size has been reserved: what is left must do for one sequence, every other
// page being on disk. That is a whole step and, while it is open, lost pages that are computed again one by
// one: a replay holds a page's frames in the layer it has come to, and may there meet a lost page itself.
Status Engine::check_budget() const {
  const CacheConfig& config = options_.config;
  const uint64_t page = round_to_os_pages(config.largest_page_bytes());
  const uint64_t step_slots = config.step_full_pages() * page;
  const uint64_t tails = uint64_t{config.layers} * (1 + config.recent_pages);
  const uint64_t replays = tails;
  const uint64_t found = tails;
  const uint64_t frames = (tails + config.step_pages() - 1 + replays + found) * config.frame_bytes();
  const uint64_t tables =
      round_to_os_pages(residency_->record_block_bytes()) + config.layers * kFirstTablePages * sizeof(Page*);
  // From the device a page goes down by way of host memory.
  const uint64_t host_slots = options_.device_budget == 0 ? step_slots : page;
  const uint64_t need = frames + host_slots + tables;
  if (device_budget_ != nullptr && device_budget_->available() < step_slots) {
    const uint64_t work = device_budget_->used();
    return invalid("device_budget of " + std::to_string(options_.device_budget) +
                   " bytes is too small: the pages of one step need " + std::to_string(step_slots) +
                   (work == 0 ? "" : " beside the work space of " + std::to_string(work)) +
                   "; raise it or lower max_step_tokens");
  }
  if (host_budget_->available() >= need) return {};
  return invalid("host_budget of " + std::to_string(host_budget_->limit()) +
                 " bytes is too small: work space and staging take " + std::to_string(host_budget_->used()) +
                 ", and a step, its pages and the recovery of lost ones need " + std::to_string(need) +
                 " more; raise it to at least " + std::to_string(host_budget_->used() + need) +
                 " or lower max_step_tokens");
}

Status Engine::build_page_device() {
  if (!options_.open_page_device) return {};
  if (device_budget_ == nullptr) return invalid("a device is given but device_budget is 0: set it");
  Result<std::unique_ptr<PageDevice>> device =
      options_.open_page_device({options_.config, *device_budget_, *host_budget_, kWavePages, kSpacePages});
  if (!device.ok()) return device.status();
  page_device_ = std::move(*device);
  return {};
}

Status Engine::build_mover(const CacheContext& context) {
  const bool has_disk = options_.nvme_budget > 0;
  if (!has_disk && device_budget_ == nullptr) return {};
  if (has_disk && options_.nvme_path.empty())
    return invalid("nvme_budget is set but nvme_path is not: name a directory");
  Result<std::unique_ptr<Stream>> stream =
      page_device_ != nullptr ? page_device_->create_stream() : device_->create_stream();
  if (!stream.ok()) return stream.status();
  copy_stream_ = std::move(*stream);
  TierOpener open_tier;
  if (has_disk) {
    open_tier = [&](std::span<uint8_t> staging) -> Result<std::unique_ptr<Tier>> {
      const NvmeTierOptions tier_options{options_.nvme_path, options_.nvme_budget, options_.io_deadline,
                                         options_.io_engine, options_.io_depth,    {staging},
                                         options_.open_io};
      Result<std::unique_ptr<NvmeTier>> tier = NvmeTier::open(tier_options, context.clock);
      if (!tier.ok()) return tier.status();
      io_name_ = (*tier)->engine().name().data();
      return std::unique_ptr<Tier>(std::move(*tier));
    };
  }
  Result<std::unique_ptr<Mover>> mover =
      Mover::create(context, copy_stream_.get(), open_tier, options_.io_deadline, options_.mover_drive,
                    write_budget_.get(), options_.nvme_compression, options_.read_gap);
  if (!mover.ok()) return mover.status();
  mover_ = std::move(*mover);
  if (page_device_ != nullptr && has_disk) {
    pinned_staging_ = std::make_unique<PinnedRange>(*page_device_, mover_->staging());
  }
  residency_->set_pager(mover_.get());
  return {};
}

// Digests are of keys as they decode: every thread that seals needs room for a section of them.
Status Engine::reserve_seal_work() {
  const CacheConfig& config = options_.config;
  if (!config.digests) return {};
  const size_t bytes = size_t{executor_->threads()} * config.page_tokens * config.head_dim * sizeof(float);
  Result<BudgetedBytes> work = BudgetedBytes::allocate(*host_budget_, Use::kWork, bytes);
  if (!work.ok()) return work.status();
  seal_work_ = std::move(*work);
  return {};
}

// One bucket for the spill file and the store. It holds the largest write of each: the store takes half.
void Engine::build_write_budget() {
  if (options_.nvme_write_budget_per_day == 0) return;
  const StoreShape shape = store_shape(options_.config);
  const uint64_t run = run_align_up(plan_staging(options_.config, options_.host_budget).write_bytes);
  const uint64_t least =
      std::max<uint64_t>(run + kExtentHeaderBytes, 2 * (2 * uint64_t{shape.header_bytes} + shape.slot_bytes));
  write_budget_ = std::make_unique<SharedWriteBudget>(
      WriteBudget(options_.nvme_write_budget_per_day, least, clock().now()));
}

Status Engine::build_store() {
  if (options_.store_path.empty()) return {};
  if (options_.model_fingerprint == std::array<uint64_t, 2>{}) {
    return invalid(
        "a store needs model_fingerprint, so that blocks of one model never serve another: set it to a "
        "hash "
        "of the weights and of what else keys and values follow from");
  }
  auto named =
      options_.open_store ? options_.open_store(options_.store_path) : open_named_file(options_.store_path);
  if (!named.ok()) return named.status();
  const StoreShape shape = store_shape(options_.config);
  const StoreFileOptions file_options{options_.io_deadline, shape.slot_bytes, options_.open_store_io};
  auto file = TimedStoreFile::open(std::move(*named), file_options, clock(), *host_budget_);
  if (!file.ok()) return file.status();
  std::random_device random;
  const auto word = [&] { return uint64_t{random()} << 32 | random(); };
  const PersistentStoreOptions store_options{
      shape,
      {block_pages(options_.config, 0), block_pages(options_.config, 1)},
      options_.store_budget,
      {word(), word()},
      write_budget_.get(),
      &clock()};
  auto store = PersistentStore::open(std::move(*file), store_options, *host_budget_);
  if (!store.ok()) return store.status();
  store_ = std::move(*store);
  return {};
}

Status Engine::build_prefixes() {
  if (Status status = build_store(); !status.ok()) return status;
  Result<std::unique_ptr<PrefixCache>> prefixes = PrefixCache::create(*cache_, store_.get());
  if (!prefixes.ok()) return prefixes.status();
  prefixes_ = std::move(*prefixes);
  return {};
}

Status Engine::build() {
  if (Status status = check_config(&options_.config); !status.ok()) return status;
  if (!options_.trace_path.empty()) {
    trace_ = std::make_unique<Trace>(clock(), kTraceEvents);
  }
  host_budget_ = std::make_unique<Budget>(options_.host_budget);
  if (options_.device_budget > 0) device_budget_ = std::make_unique<Budget>(options_.device_budget);
  if (options_.parallel_for != nullptr) {
    executor_ = std::make_unique<CallbackExecutor>(options_.parallel_for, options_.parallel_context,
                                                   options_.threads);
  } else {
    executor_ = std::make_unique<ThreadPool>(options_.threads);
  }
  device_ = create_cpu_device(options_.device);
  const CacheConfig& config = options_.config;
  if (Status status = build_page_device(); !status.ok()) return status;
  residency_ =
      std::make_unique<Residency>(device_budget_.get(), *host_budget_, config.kv_heads,
                                  config.digests ? digest_bytes(config.shape()) : 0, page_device_.get());
  const bool choose = options_.eviction == Eviction::kAuto;
  residency_->set_eviction(choose ? best_eviction(config) : options_.eviction);
  if (!options_.access_trace_path.empty()) {
    access_trace_ = std::make_unique<AccessTrace>(kTraceEvents);
    residency_->set_access_trace(access_trace_.get());
  }
  if (Status status = reserve_seal_work(); !status.ok()) return status;
  build_write_budget();
  if (Status status = build_mover(context()); !status.ok()) return status;
  Result<std::unique_ptr<Cache>> cache = Cache::create(context(), *device_);
  if (!cache.ok()) return cache.status();
  cache_ = std::move(*cache);
  if (Status status = build_prefixes(); !status.ok()) return status;
  if (Status status = check_budget(); !status.ok()) return status;
  // Still empty: tells at once when a file cannot be written.
  return write_traces();
}

}  // namespace quire
