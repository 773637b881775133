// The cpu as a device: host memory, and streams that are asynchronous, so that an ordering mistake shows
// before there is a GPU.
//
// Each stream has one worker thread. A thread that synchronizes runs the queued work itself if the worker has
// not begun on it; never do two threads run work of one stream at a time. The other rules are device.h's.
#pragma once

#include <memory>

#include "kvcache/device.h"

namespace quire {

struct CpuDeviceOptions {
  // For tests: a stream has no worker and runs nothing until someone synchronizes with it, or with an event
  // recorded in it, and then no further than that needs. Another stream's wait for an event counts when that
  // stream runs. So a forgotten event yields stale data every time. query() and idle() run nothing.
  bool lazy = false;
};

std::unique_ptr<Device> create_cpu_device(const CpuDeviceOptions& options = {});

}  // namespace quire
