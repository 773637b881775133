// Streams and events: queues of work that run when the host synchronizes (or at once, by the settings).
//
// A piece of work gets a ticket, 1, 2, ...; an event is a ticket of a queue. Work of another queue that an
// event asks for runs first, as far as it must. Thread safety: one lock for all; it is let go while a
// function of the host runs, which may take locks of its own.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

namespace emu {

enum class WorkKind : uint8_t { kDevice, kHost, kMark };

struct Queue;
struct Point {
  std::shared_ptr<Queue> queue;  // nullptr: nothing was recorded
  uint64_t ticket = 0;
};

struct Work {
  WorkKind kind;
  std::function<void()> run;
  Point after;  // runs no earlier than this point
};

struct Queue {
  std::deque<Work> work;
  uint64_t issued = 0;
  uint64_t done = 0;
  bool busy = false;  // a thread runs its work
  int device = 0;
};

using Lock = std::unique_lock<std::recursive_mutex>;

}  // namespace emu
