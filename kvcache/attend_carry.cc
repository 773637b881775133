// Waves of a cache with a device: which pages in host memory are carried up to be attended there
// (placement.h), and what the speeds are that this is decided by. The link is measured once, when the cache
// is opened; CPU and device by what they did in earlier waves.
#include <bit>

#include "kvcache/attend_call.h"
#include "kvcache/page_device.h"

namespace quire {
namespace {

constexpr uint32_t kTriedPages = 64;
constexpr double kAssumedLink = 12e9;  // where the clock shows no time
// Of the time of a wave: as long the device must be later than the CPU for its end to be seen.
constexpr double kSeenShare = 0.1;
// How much longer than others' parts the device must have been for all of the time to pass for its own.
constexpr double kOwnTime = 4;

double seconds(Nanoseconds time) { return std::chrono::duration<double>(time).count(); }

// Pages of a run that lie in host memory.
uint32_t cold_pages(const HeldRun& run) { return run.wanted & ~run.on_device; }

}  // namespace

Status Attender::measure_link() {
  PageDevice* device = context_.residency.device();
  link_ = context_.config.speeds.link;
  if (device == nullptr || link_ > 0 || device->carry_room() == 0) return {};
  // The first copy also loads the kernel.
  if (const Result<uint64_t> first = device->try_link(1); !first.ok()) return first.status();
  const Nanoseconds start = context_.clock.now();
  const Result<uint64_t> bytes = device->try_link(std::min(kTriedPages, device->carry_room()));
  if (!bytes.ok()) return bytes.status();
  const double took = seconds(context_.clock.now() - start);
  link_ = took > 0 ? static_cast<double>(*bytes) / took : kAssumedLink;
  return {};
}

// Rows are those of a whole entry: what a window or a later page leaves out is little where there is much to
// decide. Where pages are chosen, they are those that have chosen them.
WaveWork Attender::wave_work(const Call& call) const {
  WaveWork work;
  work.page_bytes = call.config.layout.bytes;
  double cold_work = 0;
  const auto add = [&](const HeldRun& run, uint32_t pages, double of_page) {
    cold_work += std::popcount(pages & cold_pages(run)) * of_page;
    work.device_work += std::popcount(pages & run.wanted & run.on_device) * of_page;
  };
  for (size_t w = 0; w < call.wave; ++w) {
    const HeldRun& run = held_[w];
    const PageRun& of_plan = plan_.runs[call.next_run + w];
    work.pages += static_cast<uint32_t>(std::popcount(cold_pages(run)));
    if (call.selective() && !call.checked()) {
      const double section = work.page_bytes / context_.config.kv_heads;
      for (const Tile& tile : plan_.tiles) {
        if (tile.entry == of_plan.entry) add(run, chosen_of(tile, of_plan), attend_work(section, tile.rows));
      }
    } else {
      const uint64_t rows = call.step->entries[of_plan.entry].count * context_.config.group();
      add(run, run.wanted, attend_work(work.page_bytes, rows));
    }
  }
  if (work.pages > 0) work.page_work = cold_work / work.pages;
  return work;
}

// The first `count` pages of the wave that can be carried.
Status Attender::carry_pages(const Call& call, uint32_t count) {
  carried_.clear();
  const auto each = [&](auto&& visit) {
    uint32_t left = count;
    for (size_t w = 0; w < call.wave && left > 0; ++w) {
      HeldRun& run = held_[w];
      for (uint32_t bits = cold_pages(run); bits != 0 && left > 0; bits &= bits - 1, --left) {
        visit(run, static_cast<uint32_t>(std::countr_zero(bits)));
      }
    }
  };
  each([&](const HeldRun& run, uint32_t i) { carried_.push_back({run.bytes[i], run.pages[i]->bytes}); });
  if (carried_.empty()) return {};
  PageDevice& device = *context_.residency.device();
  const Result<CarriedFrames> frames = device.carry(carried_);
  if (!frames.ok()) return frames.status();
  const uint8_t* frame = frames->first;
  each([&](HeldRun& run, uint32_t i) {
    run.bytes[i] = frame;
    run.on_device |= 1U << i;
    frame += frames->stride;
  });
  return {};
}

void Attender::count_places(const Call& call) {
  uint64_t pages[2] = {0, 0};  // on the host, on the device
  uint64_t bytes[2] = {0, 0};
  for (size_t w = 0; w < call.wave; ++w) {
    const HeldRun& run = held_[w];
    const uint32_t first_page = run.first_page == 0 ? run.wanted & 1U : 0;
    for (const bool device : {false, true}) {
      const uint32_t there = run.wanted & (device ? run.on_device : ~run.on_device);
      const auto count = static_cast<uint64_t>(std::popcount(there));
      pages[device] += count;
      bytes[device] += count * call.config.layout.bytes;
      if ((there & first_page) != 0)
        bytes[device] += call.config.first_layout.bytes - call.config.layout.bytes;
    }
  }
  CacheCounters& counters = context_.counters;
  counters.host_attended_pages.fetch_add(pages[0], std::memory_order_relaxed);
  counters.host_attended_bytes.fetch_add(bytes[0], std::memory_order_relaxed);
  if (pages[1] == 0) return;
  counters.device_attended_pages.fetch_add(pages[1], std::memory_order_relaxed);
  counters.device_attended_bytes.fetch_add(bytes[1], std::memory_order_relaxed);
  uint64_t carried = 0;
  for (const CarriedPage& page : carried_) carried += page.bytes;
  // After what it is a part of: who reads it first never sees more carried than attended.
  counters.carried_pages.fetch_add(carried_.size(), std::memory_order_release);
  counters.carried_bytes.fetch_add(carried, std::memory_order_release);
}

// Waves are given to the device without waiting, as far as its space goes, so that pages of one come up while
// those of the wave before are attended. But where pages are on disk each is waited for: memory that others
// are to be read to is given back then.
Status Attender::compute_with_device(Call& call) {
  if (!has_room_on_device()) {
    if (Status status = end_on_device(); !status.ok()) return status;
    release_passed();
  }
  if (batch_.waves == 0) batch_.restart(2 * plan_.rows, context_.clock.now());
  ++batch_.waves;
  const WaveWork work = wave_work(call);
  const AttendSpeeds speeds{link_, host_speed_.speed(), device_speed_.speed()};
  const uint32_t carried = pages_to_carry(work, speeds, context_.residency.device()->carry_room());
  if (Status status = carry_pages(call, carried); !status.ok()) return status;
  if (Status status = begin_on_device(call); !status.ok()) return status;
  count_places(call);
  batch_.work += work.device_work + carried * work.page_work;
  if (work.pages == 0) return {};
  if (carried > 0) batch_.carry_seconds += kCarrySeconds + carried * work.page_bytes / link_;
  const double host_work = (work.pages - carried) * work.page_work;
  // The device is at its pages meanwhile.
  const Nanoseconds start = context_.clock.now();
  if (host_work > 0) compute_on_host(call);
  const double host_seconds = seconds(context_.clock.now() - start);
  host_speed_.add(host_work, host_seconds);
  batch_.host_seconds += host_seconds;
  return any_on_disk() ? end_on_device() : Status{};
}

// idle: when the CPU had nothing left to do but wait.
void Attender::note_device_speed(Nanoseconds idle, Nanoseconds end) {
  const double wall = seconds(end - batch_.start);
  if (seconds(end - idle) < kSeenShare * wall) return;  // when the device was done nobody saw
  if (batch_.waves == 1) return device_speed_.add(batch_.work, wall - batch_.carry_seconds);
  // Pages of several waves came up while others were attended, and the CPU had its turns: whose the time was
  // is known where it is much more than both took.
  if (wall > kOwnTime * (batch_.carry_seconds + batch_.host_seconds)) device_speed_.add(batch_.work, wall);
}

}  // namespace quire
