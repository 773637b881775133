#include "offload/open_engine.h"

#include "offload/thread_engine.h"
#include "offload/uring_engine.h"

namespace quire {

Result<std::unique_ptr<IoEngine>> open_io_engine(const IoEngineOptions& options, const Clock& clock) {
  if (options.kind == IoEngineKind::kThreads) return ThreadEngine::create(options, clock);
  auto uring = UringEngine::create(options, clock);
  if (uring.ok() || options.kind == IoEngineKind::kUring) return uring;
  auto threads = ThreadEngine::create(options, clock);
  if (threads.ok()) (*threads)->set_note((*threads)->note() + ", because " + uring.status().message());
  return threads;
}

}  // namespace quire
