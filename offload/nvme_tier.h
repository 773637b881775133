// The disk tier: runs of pages in the extents of one spill file, moved by an io engine.
//
// put_run appends to the stream's open extent or opens one; one run is one write. When an extent is closed
// (the next run does not fit) and its writes have ended, its header is written; the header serves a later
// recovery, nothing waits for it. An extent whose pages are all dropped is free again once nothing is being
// written to it, nothing late either: a put whose deadline passed keeps its space until the system has let go
// of it. Invariants: the file never grows beyond the budget; a place is served only while its extent carries
// its generation, before and after the read. Thread safety: see tier.h; a short lock guards the tables.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "offload/extent_file.h"
#include "offload/extent_table.h"
#include "offload/io_engine.h"
#include "offload/tier.h"

namespace quire {

struct NvmeTierOptions {
  std::string directory;                            // for the nameless spill file
  uint64_t budget = 0;                              // bytes of disk, at least kMinExtentBytes
  Nanoseconds deadline = std::chrono::seconds(30);  // of each request
  IoEngineKind engine = IoEngineKind::kAuto;
  uint32_t depth = 16;
  std::vector<std::span<uint8_t>> buffers;  // as in IoEngineOptions
  IoEngineFactory factory;                  // empty: open_io_engine
};

class NvmeTier final : public Tier {
 public:
  // The clock outlives the tier.
  static Result<std::unique_ptr<NvmeTier>> open(const NvmeTierOptions& options, const Clock& clock);
  ~NvmeTier() override;

  Status put_run(uint64_t tag, StreamId stream, std::span<const PutPage> pages, std::span<uint8_t> buffer,
                 std::span<Place> places) override;
  void get_runs(std::span<GetRun> runs) override;
  Result<size_t> poll(std::span<Completion> out, Nanoseconds timeout) override;
  void wake() override { engine_->wake(); }
  size_t pending() const override { return engine_->pending(); }
  void drop(std::span<const Place> places) override;
  Room put_room(StreamId stream, uint32_t page_bytes) const override;
  uint64_t max_run_bytes() const override { return kMaxExtentBytes - kExtentHeaderBytes; }
  TierStats stats() const override;
  uint64_t table_bytes() const override;
  std::string_view name() const override { return "nvme"; }

  // name() and note() say which engine runs and why.
  const IoEngine& engine() const { return *engine_; }
  // Whether the file bypasses the page cache.
  bool direct() const { return file_.direct(); }

 private:
  struct Request;

  NvmeTier(ExtentFile file, const NvmeTierOptions& options, const Clock& clock);

  // The lock is held where these are called.
  Request& new_request();
  void free_request(Request& request);
  Request* find_request(uint64_t id);
  bool account(const Completion& io, Completion* out);
  void account_put(const Request& request, bool ok);

  IoOp operation(const Request& request, IoKind kind, uint64_t offset, std::span<uint8_t> buffer) const;
  Status start(std::span<const IoOp> ops);
  Status prepare_get(const GetRun& run);
  void start_headers();

  const Clock& clock_;
  const Nanoseconds deadline_;
  ExtentFile file_;
  mutable std::mutex mutex_;  // guards everything below except engine_
  ExtentTable table_;
  std::vector<std::unique_ptr<Request>> requests_;
  std::vector<uint32_t> free_requests_;  // indices
  std::vector<IoOp> starting_;           // of get_runs, kept for its memory
  Nanoseconds busy_since_{};
  TierStats counts_;
  std::unique_ptr<IoEngine> engine_;  // destroyed first: it may still use header blocks and the file
};

}  // namespace quire
