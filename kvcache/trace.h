// A trace of what ran when, written as Chrome trace JSON (chrome://tracing, ui.perfetto.dev).
//
// Users hold a Trace* that may be null; TraceSpan costs one null check then. The buffer is bounded: what
// comes after it is full is counted and dropped. Thread safety: all functions of Trace may be called from any
// thread (one short lock per event). A TraceSpan belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kvcache/clock.h"
#include "kvcache/status.h"

namespace quire {

enum class TraceCategory : uint8_t { kCompute, kIo, kEncode };

// A span of time that is over.
struct TraceEvent {
  const char* name;  // a string literal without quotes, backslashes and control characters
  TraceCategory category;
  uint32_t lane;  // the row it is drawn in; events of one lane should nest or follow each other
  Nanoseconds start;
  Nanoseconds duration;
  uint32_t layer;
  uint64_t first_page;
  uint64_t count;  // pages
};

class Trace {
 public:
  // Lanes from here on are never a thread's: for spans that no thread stands for, such as a request in
  // flight.
  static constexpr uint32_t kFirstFreeLane = 1000;

  // The clock must outlive the trace. capacity: events kept, 56 bytes each.
  Trace(const Clock& clock, size_t capacity) : clock_(clock), capacity_(capacity) {}
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  Nanoseconds now() const { return clock_.now(); }
  // The calling thread's lane: 0, 1, ... in the order in which threads first ask.
  uint32_t lane();
  void record(const TraceEvent& event);

  size_t size() const;
  uint64_t dropped() const;

  // Replaces the file at path; the times in it count from the earliest event. kIo when it cannot be written.
  Status write(const std::string& path) const;

 private:
  const Clock& clock_;
  const size_t capacity_;
  mutable std::mutex mutex_;
  std::vector<TraceEvent> events_;
  uint64_t dropped_ = 0;
  std::map<std::thread::id, uint32_t> lanes_;
};

// Records the time between its construction and its destruction in the calling thread's lane.
class TraceSpan {
 public:
  TraceSpan(Trace* trace, const char* name, TraceCategory category, uint32_t layer, uint64_t first_page = 0,
            uint64_t count = 0)
      : trace_(trace) {
    if (trace_ != nullptr) event_ = {name, category, 0, trace_->now(), {}, layer, first_page, count};
  }
  ~TraceSpan() {
    if (trace_ != nullptr) finish();
  }
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

 private:
  void finish();

  Trace* const trace_;
  TraceEvent event_;  // set only when there is a trace
};

}  // namespace quire
