#include "bindings/c/prometheus.h"

#include <array>
#include <charconv>

namespace quire::capi {
namespace {

std::string number_text(double value) {
  std::array<char, 32> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  return {digits.data(), end.ptr};
}

void head(std::string* out, const char* name, const char* type, const char* help) {
  *out += std::string("# HELP quire_") + name + ' ' + help + "\n# TYPE quire_" + name + ' ' + type + '\n';
}

void single(std::string* out, const char* name, const char* type, const char* help, double value) {
  head(out, name, type, help);
  *out += std::string("quire_") + name + ' ' + number_text(value) + '\n';
}

void by_tier(std::string* out, const char* name, const char* help, const quire_stats& stats) {
  head(out, name, "gauge", help);
  const bool bytes = std::string_view(name) == "tier_bytes";
  const auto line = [&](const char* tier, uint64_t value) {
    *out += std::string("quire_") + name + "{tier=\"" + tier + "\"} " + std::to_string(value) + '\n';
  };
  line("device", bytes ? stats.device_bytes : stats.device_pages);
  line("host", bytes ? stats.host_bytes : stats.host_pages);
  line("nvme", bytes ? stats.nvme_bytes : stats.nvme_pages);
}

// Where pages were attended: on a device those that lay there and those that were carried up.
void by_place(std::string* out, const char* name, const char* help, uint64_t host, uint64_t device,
              uint64_t carried) {
  head(out, name, "counter", help);
  const auto line = [&](const char* place, uint64_t value) {
    *out += std::string("quire_") + name + "{place=\"" + place + "\"} " + std::to_string(value) + '\n';
  };
  line("host", host);
  line("device", device - carried);
  line("carried", carried);
}

// Buckets count what took at most their bound: everything before is in them too.
void histogram(std::string* out, const char* tier, const char* operation, const LatencySnapshot& snapshot) {
  const std::string labels = std::string("tier=\"") + tier + "\",operation=\"" + operation + "\"";
  uint64_t sum = 0;
  for (size_t i = 0; i < kLatencyBuckets; ++i) {
    sum += snapshot.counts[i];
    const bool last = i + 1 == kLatencyBuckets;
    const double bound = static_cast<double>(LatencyHistogram::kFirst << i) * 1e-9;
    *out += "quire_request_seconds_bucket{" + labels + ",le=\"" + (last ? "+Inf" : number_text(bound)) +
            "\"} " + std::to_string(sum) + '\n';
  }
  *out += "quire_request_seconds_sum{" + labels + "} " +
          number_text(static_cast<double>(snapshot.nanoseconds) * 1e-9) + '\n';
  *out += "quire_request_seconds_count{" + labels + "} " + std::to_string(sum) + '\n';
}

double count(uint64_t n) { return static_cast<double>(n); }

}  // namespace

std::string prometheus_text(const Engine& engine, const quire_stats& stats) {
  std::string out;
  single(&out, "tokens", "gauge", "Tokens held, shared pages once.", count(stats.tokens));
  single(&out, "pages", "gauge", "Pages sealed and not lost.", count(stats.pages));
  single(&out, "effective_bits", "gauge", "Bits held per value.", stats.effective_bits);
  by_tier(&out, "tier_bytes", "Bytes held.", stats);
  by_tier(&out, "tier_pages", "Copies of pages.", stats);
  single(&out, "page_hits_total", "counter", "Pages attended in memory.", count(stats.page_hits));
  single(&out, "page_misses_total", "counter", "Pages that had to be read.", count(stats.page_misses));
  by_place(&out, "attended_pages_total",
           "Pages attended, by where; carried: on the device, from host memory.", stats.host_attended_pages,
           stats.device_attended_pages, stats.carried_pages);
  by_place(&out, "attended_bytes_total", "Bytes of these pages.", stats.host_attended_bytes,
           stats.device_attended_bytes, stats.carried_bytes);
  single(&out, "foreseen_sections_total", "counter", "Sections read because guessed queries chose them.",
         count(stats.foreseen_sections));
  single(&out, "foreseen_sections_used_total", "counter", "Those of them that were attended.",
         count(stats.foreseen_sections_used));
  single(&out, "pages_lost_total", "counter", "Pages to be computed again.", count(stats.pages_lost));
  single(&out, "read_bytes_total", "counter", "Bytes read from disk.", count(stats.read_bytes));
  single(&out, "written_bytes_total", "counter", "Bytes written to disk.", count(stats.written_bytes));
  single(&out, "demoted_bytes_total", "counter", "Bytes of pages written to disk.",
         count(stats.demoted_bytes));
  single(&out, "stored_bytes_total", "counter", "The same as they lie on disk, compressed or not.",
         count(stats.stored_bytes));
  single(&out, "compressed_pages_total", "counter", "Pages compressed on disk.",
         count(stats.compressed_pages));
  single(&out, "demoted_pages_total", "counter", "Pages written to disk.", count(stats.demoted_pages));
  single(&out, "dropped_pages_total", "counter", "Pages that left memory.", count(stats.dropped_pages));
  single(&out, "promoted_pages_total", "counter", "Pages that came back to memory.",
         count(stats.promoted_pages));
  single(&out, "partial_pages_total", "counter", "Pages read for some of their kv heads.",
         count(stats.partial_pages));
  single(&out, "encode_seconds_total", "counter", "Busy time of encoding.", stats.encode_seconds);
  single(&out, "attend_seconds_total", "counter", "Busy time of attention.", stats.attend_seconds);
  single(&out, "io_wait_seconds_total", "counter", "Time that attention waited for reads.",
         stats.io_wait_seconds);
  single(&out, "prefix_asked_tokens_total", "counter", "Tokens that were asked for to be adopted.",
         count(stats.prefix_asked_tokens));
  single(&out, "prefix_shared_tokens_total", "counter", "Tokens adopted from live sequences.",
         count(stats.prefix_shared_tokens));
  single(&out, "prefix_loaded_tokens_total", "counter", "Tokens adopted from the store.",
         count(stats.prefix_loaded_tokens));
  single(&out, "store_blocks", "gauge", "Blocks in the store.", count(stats.store_blocks));
  single(&out, "store_stored_blocks_total", "counter", "Blocks put into the store.",
         count(stats.store_stored_blocks));
  single(&out, "store_evicted_blocks_total", "counter", "Blocks that made room in the store.",
         count(stats.store_evicted_blocks));
  single(&out, "store_damaged_blocks_total", "counter", "Blocks of the store that did not prove right.",
         count(stats.store_damaged_blocks));
  if (engine.mover() == nullptr) return out;
  const MoverCounts& moved = engine.mover()->counts();
  head(&out, "request_seconds", "histogram", "How long requests to a tier take.");
  histogram(&out, "nvme", "read", moved.disk_reads.snapshot());
  histogram(&out, "nvme", "write", moved.disk_writes.snapshot());
  histogram(&out, "nvme", "compress", moved.compressions.snapshot());
  histogram(&out, "nvme", "expand", moved.expansions.snapshot());
  histogram(&out, "host", "copy", moved.host_copies.snapshot());
  return out;
}

}  // namespace quire::capi
