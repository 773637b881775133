#include "kvcache/trace.h"

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <memory>

namespace quire {

namespace {

const char* category_name(TraceCategory category) {
  switch (category) {
    case TraceCategory::kCompute:
      return "compute";
    case TraceCategory::kIo:
      return "io";
    case TraceCategory::kEncode:
      return "encode";
  }
  return "unknown";
}

// Chrome counts in microseconds. The whole part and the thousandths are printed apart: exact at any length.
struct Microseconds {
  explicit Microseconds(Nanoseconds t) : whole(t.count() / 1000), thousandths(t.count() % 1000) {}
  int64_t whole;
  int64_t thousandths;
};

void print_event(std::FILE* file, const TraceEvent& event, Nanoseconds origin) {
  const Microseconds start(event.start - origin);
  const Microseconds duration(event.duration);
  std::fprintf(file,
               "{\"name\":\"%s\",\"cat\":\"%s\",\"ph\":\"X\",\"pid\":1,\"tid\":%" PRIu32 ",\"ts\":%" PRId64
               ".%03" PRId64 ",\"dur\":%" PRId64 ".%03" PRId64 ",\"args\":{\"layer\":%" PRIu32
               ",\"first_page\":%" PRIu64 ",\"count\":%" PRIu64 "}}",
               event.name, category_name(event.category), event.lane, start.whole, start.thousandths,
               duration.whole, duration.thousandths, event.layer, event.first_page, event.count);
}

Status write_failed(const std::string& path) {
  return {StatusCode::kIo, "cannot write the trace to " + path + " (" + std::strerror(errno) +
                               "); name a file in a directory that can be written"};
}

}  // namespace

uint32_t Trace::lane() {
  const std::lock_guard lock(mutex_);
  const auto next = static_cast<uint32_t>(lanes_.size());
  return lanes_.try_emplace(std::this_thread::get_id(), next).first->second;
}

void Trace::record(const TraceEvent& event) {
  const std::lock_guard lock(mutex_);
  if (events_.size() < capacity_) {
    events_.push_back(event);
  } else {
    ++dropped_;
  }
}

size_t Trace::size() const {
  const std::lock_guard lock(mutex_);
  return events_.size();
}

uint64_t Trace::dropped() const {
  const std::lock_guard lock(mutex_);
  return dropped_;
}

Status Trace::write(const std::string& path) const {
  const std::lock_guard lock(mutex_);
  Nanoseconds origin = Nanoseconds::max();
  for (const TraceEvent& event : events_) origin = std::min(origin, event.start);

  std::FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) return write_failed(path);
  std::fputs("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[", file);
  const char* separator = "\n";
  for (const TraceEvent& event : events_) {
    std::fputs(separator, file);
    print_event(file, event, origin);
    separator = ",\n";
  }
  std::fprintf(file, "\n],\"otherData\":{\"dropped\":\"%" PRIu64 "\"}}\n", dropped_);
  const bool failed = std::ferror(file) != 0;
  if (std::fclose(file) != 0 || failed) return write_failed(path);
  return {};
}

void TraceSpan::finish() {
  event_.duration = trace_->now() - event_.start;
  event_.lane = trace_->lane();
  trace_->record(event_);
}

}  // namespace quire
