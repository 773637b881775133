// What a cache learns of its device's speed while several waves are under way, by a clock that the test
// moves: the device's time is a model of its copies and kernels, the CPU's one of its kernels.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>

#include "tests/cuda/engine_runner.h"

namespace quire::testing {
namespace {

constexpr uint64_t kColdPages = 340;
constexpr size_t kTokens = 3;

// Kernels are plain functions, so these are of all engines.
AttendSpeeds truth;  // set before an engine is opened
std::atomic<int64_t> nanoseconds;

double now() { return static_cast<double>(nanoseconds) * 1e-9; }
void advance(double seconds) { nanoseconds += static_cast<int64_t>(seconds * 1e9); }

class ModelClock final : public Clock {
 public:
  Nanoseconds now() const override { return Nanoseconds(nanoseconds.load()); }
};

void attend_folded_in_time(const FoldedPages& pages, std::span<const SectionRef> sections,
                           const QueryTile& tile, const AttendState& state, uint8_t* scratch) {
  best_kernels().attend_folded(pages, sections, tile, state, scratch);
  advance(attend_work(static_cast<double>(sections.size() * pages.layout.bytes), tile.rows) / truth.host);
}

// The device, with the times at which its copies and its kernels will be done.
class ModelDevice final : public PageDevice {
 public:
  ModelDevice(std::unique_ptr<PageDevice> device, double page_bytes)
      : device_(std::move(device)), page_bytes_(page_bytes) {}

  Result<CarriedFrames> carry(std::span<const CarriedPage> pages) override {
    double bytes = 0;
    for (const CarriedPage& page : pages) bytes += page.bytes;
    copied_ = std::max(copied_, now()) + bytes / truth.link;
    return device_->carry(pages);
  }
  Result<uint64_t> try_link(uint32_t pages) override {
    const Result<uint64_t> bytes = device_->try_link(pages);
    if (bytes.ok()) advance(static_cast<double>(*bytes) / truth.link);
    return bytes;
  }
  Status attend(uint32_t layer, std::span<const DeviceRows> rows) override {
    attended_ = std::max({attended_, copied_, now()});
    for (const DeviceRows& r : rows) {
      attended_ += attend_work(r.section_count * page_bytes_, r.rows) / truth.device;
    }
    return device_->attend(layer, rows);
  }
  Status end_waves(uint32_t rows) override {
    advance(std::max(0.0, attended_ - now()));
    return device_->end_waves(rows);
  }

  uint8_t* map(size_t bytes) override { return device_->map(bytes); }
  void unmap(uint8_t* data, size_t bytes) override { device_->unmap(data, bytes); }
  std::string_view name() const override { return device_->name(); }
  Result<std::unique_ptr<Stream>> create_stream() override { return device_->create_stream(); }
  Result<std::unique_ptr<Event>> mark(void* stream) override { return device_->mark(stream); }
  uint32_t encode_pages() const override { return device_->encode_pages(); }
  Result<EncodedBatch> encode(const EncodeBatch& batch) override { return device_->encode(batch); }
  Status store(uint8_t* slot, const uint8_t* bytes, size_t count) override {
    return device_->store(slot, bytes, count);
  }
  Result<const uint8_t*> fetch(const uint8_t* slot, size_t count) override {
    return device_->fetch(slot, count);
  }
  uint8_t* tensor_room(uint32_t room) override { return device_->tensor_room(room); }
  Status copy_rows(const RowCopy& copy) override { return device_->copy_rows(copy); }
  Status finish_copies() override { return device_->finish_copies(); }
  SlotMemory& host_memory() override { return device_->host_memory(); }
  void pin(std::span<uint8_t> memory) override { device_->pin(memory); }
  void unpin(std::span<uint8_t> memory) override { device_->unpin(memory); }
  uint32_t carry_room() const override { return device_->carry_room(); }
  DeviceAttendSpace attend_space() override { return device_->attend_space(); }
  Status load_queries(uint32_t rows) override { return device_->load_queries(rows); }
  Status begin_wave(const WaveSpace& wave) override { return device_->begin_wave(wave); }

 private:
  std::unique_ptr<PageDevice> device_;
  const double page_bytes_;
  double copied_ = 0;
  double attended_ = 0;
};

// Two waves of pages: some 200 on the device, kColdPages in host memory.
World two_waves() {
  World world = world_of_small_pages();
  world.device_budget = least(world, &World::device_budget) + 2 * kMiB;
  return world;
}

Result<std::unique_ptr<Engine>> open_in_time(const World& world) {
  static const ModelClock clock;
  static const Kernels kernels = [] {
    Kernels in_time = best_kernels();
    in_time.attend_folded = attend_folded_in_time;
    return in_time;
  }();
  EngineOptions options = engine_options(world);
  options.clock = &clock;
  options.kernels = &kernels;
  options.open_page_device = [](const PageDeviceSetup& setup) -> Result<std::unique_ptr<PageDevice>> {
    Result<std::unique_ptr<PageDevice>> device = create_cuda_page_device(setup);
    if (!device.ok()) return device.status();
    const auto page_bytes = static_cast<double>(setup.config.layer[0].layout.bytes);
    return std::unique_ptr<PageDevice>(new ModelDevice(std::move(*device), page_bytes));
  };
  return Engine::open(std::move(options));
}

// How many pages come up for each of kTokens.
std::vector<uint64_t> carried_by_tokens(const World& world) {
  std::vector<uint64_t> carried;
  const Result<std::unique_ptr<Engine>> opened = open_in_time(world);
  EXPECT_TRUE(opened.ok()) << opened.status().message();
  if (!opened.ok()) return carried;
  Engine& engine = **opened;
  Sequence* sequence = *engine.cache().create_sequence();
  EXPECT_TRUE(engine.cache().set_rope(sequence, test_rope(world)).ok());
  uint64_t tokens = 0;
  for (; counts_of(engine).memory_pages[1] < kColdPages; tokens += 64) {
    EXPECT_TRUE(append_tokens(engine, world, sequence, tokens, 64).ok());
  }
  while (carried.size() < kTokens) {
    const uint64_t before = engine.counters().carried_pages.load();
    EXPECT_TRUE(run_step(engine, world, sequence, tokens++, 1).status.ok());
    carried.push_back(engine.counters().carried_pages.load() - before);
  }
  return carried;
}

// From the second token on the cache decides like one that was told what the device's speed is.
TEST_F(CudaEngine, TimeOfOthersIsNotTakenForTheDevices) {
  struct Case {
    const char* what;
    AttendSpeeds speeds;
  };
  uint32_t cases = 0;
  World world = two_waves();
  // The CPU is faster than is assumed before it is seen: too many pages come up for the first wave.
  for (const Case& c : {Case{"the link takes the time", {3e8, 250e9, 10e12}},
                        Case{"the device is slower than is assumed", {3e8, 250e9, 1e9}}}) {
    SCOPED_TRACE(c.what);
    truth = c.speeds;
    world.speeds.device = truth.device;
    const std::vector<uint64_t> told = carried_by_tokens(world);
    world.speeds.device = 0;
    const std::vector<uint64_t> learned = carried_by_tokens(world);
    ASSERT_EQ(learned.size(), kTokens);
    EXPECT_GT(learned.front(), told.back());
    EXPECT_TRUE(std::equal(learned.begin() + 1, learned.end(), told.begin() + 1))
        << learned[1] << ", " << learned.back() << " pages and not " << told[1] << ", " << told.back();
    ++cases;
  }
  std::printf("[counts] cases=%u\n", cases);
}

}  // namespace
}  // namespace quire::testing
