#include "offload/nvme_tier.h"

#include <algorithm>
#include <array>

#include "offload/open_engine.h"

namespace quire {
namespace {

struct alignas(kRunAlign) HeaderBlock {
  std::array<uint8_t, kExtentHeaderBytes> bytes;
};

bool run_aligned(std::span<const uint8_t> buffer) {
  return reinterpret_cast<uintptr_t>(buffer.data()) % kRunAlign == 0;
}

Status check_put(std::span<const PutPage> pages, std::span<const uint8_t> buffer,
                 std::span<const Place> places) {
  if (pages.empty() || places.size() != pages.size())
    return invalid("a run needs pages, and one place for each");
  uint64_t bytes = 0;
  for (const PutPage& page : pages) {
    if (page.length == 0 || page.length % kPlaceAlign != 0) {
      return invalid("a page of " + std::to_string(page.length) + " bytes: lengths are multiples of 64");
    }
    bytes += page.length;
  }
  if (!run_aligned(buffer) || buffer.size() != run_align_up(bytes)) {
    return invalid("the buffer of a run is aligned to 4096 and as long as its pages, rounded up to 4096");
  }
  return {};
}

Status check_get(std::span<const Place> places, std::span<const uint8_t> buffer) {
  if (places.empty()) return invalid("a read needs places");
  for (size_t i = 1; i < places.size(); ++i) {
    if (places[i].extent != places[0].extent ||
        places[i].offset < places[i - 1].offset + places[i - 1].length) {
      return invalid("the places of a read lie in one extent, by rising offset");
    }
  }
  const uint64_t end = run_align_up(places.back().offset + places.back().length);
  if (!run_aligned(buffer) || buffer.size() < end - run_align_down(places.front().offset)) {
    return invalid("the buffer of a read is aligned to 4096 and holds the aligned range of its places");
  }
  return {};
}

}  // namespace

// What the engine works on. Its id, the operation's tag, is never used again.
struct NvmeTier::Request {
  enum class Kind : uint8_t { kPut, kGet, kHeader };
  static constexpr uint32_t kIndexBits = 32;

  uint32_t index = 0;
  uint32_t serial = 0;  // of this use of the index
  bool active = false;
  bool expired = false;
  Kind kind = Kind::kPut;
  uint64_t tag = 0;    // the caller's
  uint64_t bytes = 0;  // to move
  Place first;         // of the run, for its extent and generation
  std::vector<PutPage> pages;
  std::vector<Place> places;
  std::unique_ptr<HeaderBlock> header;

  uint64_t id() const { return uint64_t{serial} << kIndexBits | index; }
};

Result<std::unique_ptr<NvmeTier>> NvmeTier::open(const NvmeTierOptions& options, const Clock& clock) {
  if (options.budget < kMinExtentBytes) {
    return invalid("a disk budget of " + std::to_string(options.budget) +
                   " bytes holds no extent; give at least " + std::to_string(kMinExtentBytes));
  }
  if (options.deadline <= Nanoseconds::zero())
    return invalid("the deadline of disk requests must be above zero");
  auto file = ExtentFile::create(options.directory, options.budget / kMinExtentBytes * kMinExtentBytes);
  if (!file.ok()) return file.status();
  std::unique_ptr<NvmeTier> tier(new NvmeTier(std::move(*file), options, clock));
  const IoEngineOptions io{options.engine, options.depth, {tier->file_.fd()}, options.buffers};
  auto engine = options.factory ? options.factory(io, clock) : open_io_engine(io, clock);
  if (!engine.ok()) return engine.status();
  tier->engine_ = std::move(*engine);
  return tier;
}

NvmeTier::NvmeTier(ExtentFile file, const NvmeTierOptions& options, const Clock& clock)
    : clock_(clock), deadline_(options.deadline), file_(std::move(file)), table_(options.budget) {}

NvmeTier::~NvmeTier() = default;

Status NvmeTier::put_run(uint64_t tag, StreamId stream, std::span<const PutPage> pages,
                         std::span<uint8_t> buffer, std::span<Place> places) {
  if (Status status = check_put(pages, buffer, places); !status.ok()) return status;
  Request* request = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (Status status = table_.reserve(stream, pages, places); !status.ok()) return status;
    request = &new_request();
    request->kind = Request::Kind::kPut;
    request->tag = tag;
    request->bytes = buffer.size();
    request->first = places.front();
    request->pages.assign(pages.begin(), pages.end());
    request->places.assign(places.begin(), places.end());
  }
  const IoOp op = operation(*request, IoKind::kWrite, places.front().offset, buffer);
  return start({&op, 1});
}

// The lock is held.
Status NvmeTier::prepare_get(const GetRun& run) {
  if (Status status = check_get(run.places, run.buffer); !status.ok()) return status;
  for (const Place& place : run.places) {
    if (!table_.valid(place)) return {StatusCode::kMiss, "the disk tier holds other pages at this place"};
  }
  const uint64_t offset = run_align_down(run.places.front().offset);
  Request& request = new_request();
  request.kind = Request::Kind::kGet;
  request.tag = run.tag;
  request.bytes = run_align_up(run.places.back().offset + run.places.back().length) - offset;
  request.first = run.places.front();
  starting_.push_back(operation(request, IoKind::kRead, offset, run.buffer.first(request.bytes)));
  return {};
}

void NvmeTier::get_runs(std::span<GetRun> runs) {
  starting_.clear();
  {
    const std::lock_guard lock(mutex_);
    for (GetRun& run : runs) run.status = prepare_get(run);
  }
  if (starting_.empty()) return;
  const Status status = start(starting_);
  for (GetRun& run : runs) {
    if (run.status.ok()) run.status = status;
  }
}

IoOp NvmeTier::operation(const Request& request, IoKind kind, uint64_t offset,
                         std::span<uint8_t> buffer) const {
  return {kind, 0, offset, buffer, request.id(), clock_.now() + deadline_};
}

Status NvmeTier::start(std::span<const IoOp> ops) {
  Status status = engine_->submit(ops);
  if (!status.ok()) {
    const std::lock_guard lock(mutex_);
    Completion unused;
    for (const IoOp& op : ops) account({op.tag, CompletionEvent::kDone, status.code(), 0}, &unused);
  }
  return status;
}

Result<size_t> NvmeTier::poll(std::span<Completion> out, Nanoseconds timeout) {
  std::array<Completion, 64> done;
  auto polled = engine_->poll(std::span(done).first(std::min(done.size(), out.size())), timeout);
  if (!polled.ok()) return polled.status();
  size_t count = 0;
  {
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < *polled; ++i) count += account(done[i], &out[count]) ? 1 : 0;
  }
  start_headers();
  return count;
}

// Applies one completion of the engine. True when it is one of the caller's too, then in *out.
bool NvmeTier::account(const Completion& io, Completion* out) {
  Request* request = find_request(io.tag);
  const bool late = io.event == CompletionEvent::kReleased;
  if (request == nullptr || request->expired != late) {
    ++counts_.stray_completions;
    return false;
  }
  *out = {request->tag, io.event, io.code, io.os_error};
  const auto kind = request->kind;
  const bool ok = io.code == StatusCode::kOk;
  if (!late && kind == Request::Kind::kPut) account_put(*request, ok);
  if (!late && kind == Request::Kind::kHeader) ++(ok ? counts_.headers : counts_.failed_headers);
  if (!late && kind == Request::Kind::kGet) {
    const bool current = table_.valid(request->first);
    if (ok && !current) out->code = StatusCode::kMiss;
    ++(ok && current ? counts_.gets : counts_.failed_gets);
  }
  if (ok) (kind == Request::Kind::kGet ? counts_.read_bytes : counts_.written_bytes) += request->bytes;
  if (io.event == CompletionEvent::kExpired) {
    request->expired = true;
  } else {
    if (kind != Request::Kind::kGet) table_.end_write(request->first.extent);
    free_request(*request);
  }
  return kind != Request::Kind::kHeader;
}

void NvmeTier::account_put(const Request& request, bool ok) {
  if (ok) {
    table_.commit(request.pages, request.places);
    ++counts_.puts;
  } else {
    table_.drop(request.places);
    ++counts_.failed_puts;
  }
}

void NvmeTier::start_headers() {
  while (true) {
    Request* request = nullptr;
    {
      const std::lock_guard lock(mutex_);
      const auto header = table_.take_header();
      if (!header) return;
      request = &new_request();
      request->kind = Request::Kind::kHeader;
      request->bytes = kExtentHeaderBytes;
      request->first = {header->offset, 0, static_cast<uint32_t>(header->offset / kMinExtentBytes),
                        header->generation};
      request->header = std::make_unique<HeaderBlock>();
      write_extent_header(*header, request->header->bytes);
    }
    const IoOp op = operation(*request, IoKind::kWrite, request->first.offset, request->header->bytes);
    // A header that cannot be written is counted; the pages behind it stay readable.
    [[maybe_unused]] const Status status = start({&op, 1});
  }
}

void NvmeTier::drop(std::span<const Place> places) {
  const std::lock_guard lock(mutex_);
  table_.drop(places);
}

Tier::Room NvmeTier::put_room(StreamId stream, uint32_t page_bytes) const {
  const std::lock_guard lock(mutex_);
  return table_.room(stream, page_bytes);
}

TierStats NvmeTier::stats() const {
  const std::lock_guard lock(mutex_);
  TierStats stats = counts_;
  stats.capacity = table_.capacity();
  stats.used_bytes = table_.used_bytes();
  stats.live_bytes = table_.live_bytes();
  if (free_requests_.size() < requests_.size()) stats.busy += clock_.now() - busy_since_;
  return stats;
}

uint64_t NvmeTier::table_bytes() const {
  const std::lock_guard lock(mutex_);
  uint64_t bytes = table_.table_bytes() + requests_.capacity() * sizeof(void*) +
                   free_requests_.capacity() * sizeof(uint32_t);
  for (const auto& request : requests_) {
    bytes += sizeof(Request) + request->pages.capacity() * sizeof(PutPage) +
             request->places.capacity() * sizeof(Place) + (request->header ? sizeof(HeaderBlock) : 0);
  }
  return bytes;
}

NvmeTier::Request& NvmeTier::new_request() {
  if (free_requests_.size() == requests_.size()) busy_since_ = clock_.now();
  if (free_requests_.empty()) {
    requests_.push_back(std::make_unique<Request>());
    requests_.back()->index = static_cast<uint32_t>(requests_.size() - 1);
    free_requests_.push_back(requests_.back()->index);
  }
  Request& request = *requests_[free_requests_.back()];
  free_requests_.pop_back();
  ++request.serial;
  request.active = true;
  request.expired = false;
  return request;
}

void NvmeTier::free_request(Request& request) {
  request.active = false;
  request.header.reset();
  free_requests_.push_back(request.index);
  if (free_requests_.size() == requests_.size()) counts_.busy += clock_.now() - busy_since_;
}

// nullptr when the request has ended already.
NvmeTier::Request* NvmeTier::find_request(uint64_t id) {
  const auto index = static_cast<uint32_t>(id);
  if (index >= requests_.size()) return nullptr;
  Request& request = *requests_[index];
  return request.active && request.id() == id ? &request : nullptr;
}

}  // namespace quire
