// quire-tier: how fast the disk tier writes pages and reads a layer's back, for comparison with fio's best.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kvcache/os_memory.h"
#include "offload/nvme_tier.h"
#include "offload/read_plan.h"

namespace quire::bench {
namespace {

struct TierOptions {
  std::string directory = "/tmp";
  uint64_t bytes = uint64_t{1} << 30;
  uint64_t request = uint64_t{1} << 20;
  uint64_t page = 68608;  // a rot4 page of 64 tokens, 8 kv heads of 128
  uint32_t depth = 8;
  std::string json;
};

struct Speed {
  double seconds = 0;
  uint64_t bytes = 0;  // of pages
  double mib_s() const { return static_cast<double>(bytes) / seconds / (1 << 20); }
};

[[noreturn]] void give_up(const Status& status) {
  std::fprintf(stderr, "quire-tier: %s\n", status.message().c_str());
  std::exit(2);
}

// A tier, its staging buffers, and the requests that are under way.
class Runner {
 public:
  explicit Runner(const TierOptions& options)
      : options_(options),
        stride_(run_align_up(options.request) + 2 * kRunAlign),
        staging_(map_os_pages(stride_ * options.depth)) {
    if (staging_ == nullptr)
      give_up({StatusCode::kOverBudget, "there is no memory for the requests; lower --depth"});
    const std::span<uint8_t> all(staging_, stride_ * options.depth);
    prefer_large_pages(all.data(), all.size());
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint8_t>(i * 2654435761U >> 24);
    NvmeTierOptions tier;
    tier.directory = options.directory;
    tier.budget = options.bytes + options.bytes / 8 + (uint64_t{64} << 20);
    tier.depth = options.depth;
    tier.buffers = {all};
    auto opened = NvmeTier::open(tier, clock_);
    if (!opened.ok()) give_up(opened.status());
    tier_ = std::move(*opened);
    for (uint32_t i = 0; i < options.depth; ++i) free_.push_back(i);
  }

  Speed write() {
    const Nanoseconds start = clock_.now();
    uint64_t done = 0;
    while (done < options_.bytes) {
      const uint32_t buffer = take_buffer();
      done += put(buffer);
    }
    drain();
    return {seconds_since(start), done};
  }

  Speed read() {
    const Nanoseconds start = clock_.now();
    uint64_t done = 0;
    for (const ReadRun& run : plan_runs(places_, stride_)) {
      const uint32_t buffer = take_buffer();
      const auto places = std::span(places_).subspan(run.first, run.count);
      const Status status = tier_->get_run(buffer, places, staging(buffer, run.bytes));
      if (!status.ok()) give_up(status);
      for (const Place& place : places) done += place.length;
    }
    drain();
    return {seconds_since(start), done};
  }

  TierStats stats() const { return tier_->stats(); }
  const NvmeTier& tier() const { return *tier_; }

 private:
  std::span<uint8_t> staging(uint32_t index, uint64_t bytes) { return {staging_ + index * stride_, bytes}; }
  double seconds_since(Nanoseconds start) const {
    return static_cast<double>((clock_.now() - start).count()) * 1e-9;
  }

  // Writes one run; the bytes of its pages.
  uint64_t put(uint32_t buffer) {
    const StreamId stream{1, 0};
    const Tier::Room room = tier_->put_room(stream, static_cast<uint32_t>(options_.page));
    const uint64_t most = std::min(options_.request, room.bytes) / options_.page;
    const auto count = static_cast<size_t>(std::clamp<uint64_t>(most, 1, std::max(1U, room.pages)));
    std::vector<PutPage> pages;
    for (size_t i = 0; i < count; ++i) {
      pages.push_back({next_page_++, static_cast<uint32_t>(options_.page), 0});
    }
    std::vector<Place> places(count);
    const uint64_t bytes = count * options_.page;
    const Status status = tier_->put_run(buffer, stream, pages, staging(buffer, run_align_up(bytes)), places);
    if (!status.ok()) give_up(status);
    places_.insert(places_.end(), places.begin(), places.end());
    return bytes;
  }

  uint32_t take_buffer() {
    while (free_.empty()) poll();
    const uint32_t buffer = free_.back();
    free_.pop_back();
    return buffer;
  }

  void poll() {
    std::array<Completion, 32> completions;
    const Result<size_t> count = tier_->poll(completions, std::chrono::seconds(30));
    if (!count.ok()) give_up(count.status());
    for (size_t i = 0; i < *count; ++i) {
      if (completions[i].code != StatusCode::kOk)
        give_up({completions[i].code, "a request to the disk failed"});
      free_.push_back(static_cast<uint32_t>(completions[i].tag));
    }
  }

  void drain() {
    while (free_.size() < options_.depth || tier_->pending() > 0) poll();
  }

  const TierOptions& options_;
  SteadyClock clock_;
  const uint64_t stride_;
  uint8_t* const staging_;  // goes with the process
  std::unique_ptr<NvmeTier> tier_;
  std::vector<uint32_t> free_;
  std::vector<Place> places_;
  uint32_t next_page_ = 0;
};

void measure(const TierOptions& options) {
  Runner runner(options);
  const Speed write = runner.write();
  const Speed read = runner.read();
  const TierStats stats = runner.stats();
  const double amplification = static_cast<double>(stats.written_bytes) / static_cast<double>(write.bytes);
  std::printf("%s (%s), %s: write %.0f MiB/s, read %.0f MiB/s, %.4f bytes written per byte of pages\n",
              std::string(runner.tier().engine().name()).c_str(), runner.tier().engine().note().c_str(),
              runner.tier().direct() ? "O_DIRECT" : "page cache", write.mib_s(), read.mib_s(), amplification);
  if (options.json.empty()) return;
  std::ofstream(options.json) << nlohmann::json{{"write_mib_s", write.mib_s()},
                                                {"read_mib_s", read.mib_s()},
                                                {"write_amplification", amplification},
                                                {"engine", runner.tier().engine().name()},
                                                {"direct", runner.tier().direct()},
                                                {"request", options.request},
                                                {"depth", options.depth},
                                                {"bytes", options.bytes}}
                                     .dump(2)
                              << '\n';
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  quire::bench::TierOptions options;
  CLI::App app("Writes pages through the disk tier and reads them back; prints how fast.", "quire-tier");
  app.footer("Example: quire-tier --dir /var/tmp --bytes 2G --request 2M --depth 16");
  app.failure_message([](const CLI::App*, const CLI::Error& error) {
    return "quire-tier: " + std::string(error.what()) + "; see --help\n";
  });
  app.add_option("--dir", options.directory, "Directory of the spill file")->capture_default_str();
  app.add_option("--bytes", options.bytes, "Bytes of pages")->transform(CLI::AsSizeValue(false));
  app.add_option("--request", options.request, "Largest request")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(uint64_t{131072}, uint64_t{4190208}));
  app.add_option("--page", options.page, "Bytes of a page, a multiple of 64")
      ->check(CLI::Range(uint64_t{64}, uint64_t{131072}));
  app.add_option("--depth", options.depth, "Requests under way")->check(CLI::Range(1U, 256U));
  app.add_option("--json", options.json, "File for the figures");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  quire::bench::measure(options);
  return 0;
}
