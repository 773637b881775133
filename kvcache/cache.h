// The cache: sequences, steps, and one compute stream on which everything that touches them runs in order.
//
// append, attend and choose_ahead are enqueued and return; every other function runs on the stream and waits
// for it. Sequences and steps are therefore touched by one thread at a time without locks; page places, which
// the pager changes meanwhile, are under Residency's lock. Thread safety: any thread, except that one
// OpenStep is used by one thread at a time. Destruction needs all other calls to have returned.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "kvcache/attend.h"
#include "kvcache/device.h"
#include "kvcache/live_prefixes.h"
#include "kvcache/step.h"

namespace quire {

struct StepRequest {
  Sequence* sequence;
  uint64_t first;
  uint64_t count;
};

// A step with work of its own on the stream.
class OpenStep {
 public:
  OpenStep() = default;
  ~OpenStep();
  OpenStep(const OpenStep&) = delete;
  OpenStep& operator=(const OpenStep&) = delete;

 private:
  friend class Cache;
  void begin_work();
  void end_work();

  Step step_;
  std::mutex mutex_;
  uint32_t pending_ = 0;  // enqueued operations that have not run
  int event_fd_ = -1;     // readable while pending_ == 0
};

struct CacheCounts {
  uint64_t tokens = 0;       // shared pages once
  uint64_t tail_tokens = 0;  // summed over layers
  uint64_t sequences = 0;
};

class Cache {
 public:
  // Everything in the context and the device outlive the cache.
  static Result<std::unique_ptr<Cache>> create(const CacheContext& context, Device& device);
  ~Cache();
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  const CacheContext& context() const { return context_; }

  Result<Sequence*> create_sequence();
  Result<Sequence*> fork(Sequence* sequence);
  Status truncate(Sequence* sequence, uint64_t length);
  Status set_rope(Sequence* sequence, Rope rope);
  Status free(Sequence* sequence);
  uint64_t length(Sequence* sequence);

  Result<std::unique_ptr<OpenStep>> begin(std::span<const StepRequest> requests);
  Status append(OpenStep* step, uint32_t layer, const TensorView& keys, const TensorView& values);
  Status attend(OpenStep* step, uint32_t layer, const AttendArgs& args);
  // Begins to read what these queries, a guess of the layer's, would choose; args.out is not looked at.
  Status choose_ahead(OpenStep* step, uint32_t layer, const AttendArgs& args);
  // What is enqueued from here on runs after the event.
  Status run_after(OpenStep* step, std::shared_ptr<Event> event);
  Status wait(OpenStep* step);
  Status poll(OpenStep* step);
  Result<int> event_fd(OpenStep* step);
  // Of the last kMiss.
  Miss miss(OpenStep* step);
  // Waits, publishes or forgets the step's tokens. The step is over whatever this returns.
  Status end(OpenStep* step);

  Status refill(Sequence* sequence, uint32_t layer, uint64_t first, uint64_t count, const TensorView& keys,
                const TensorView& values);
  Status prefetch(Sequence* sequence, uint32_t layer, uint64_t first, uint64_t count);
  Status flush();
  CacheCounts counts();

  // Runs work on the stream, in order with everything else, and waits for it.
  Status run(const std::function<Status()>& work);
  // For work on the stream.
  LivePrefixes& live_prefixes() { return live_prefixes_; }
  // The same: gives back the staging memory of what was read ahead.
  void release_ahead() { attender_->release_ahead(); }

 private:
  explicit Cache(const CacheContext& context) : context_(context), live_prefixes_(context.host_budget) {}

  // Runs work on the stream and waits for it.
  template <typename Work>
  auto on_stream(Work&& work);
  Status enqueue(OpenStep* step, std::function<Status(Step*)> work);
  Status check_requests(std::span<const StepRequest> requests) const;
  Status check_layer(uint32_t layer) const;
  Status check_attend(const Step& step, uint32_t layer, const AttendArgs& args) const;
  void start_step(Step* step, std::span<const StepRequest> requests);
  Status finish_step(Step* step);
  void forget_tokens(const Step& step);

  CacheContext context_;
  LivePrefixes live_prefixes_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Attender> attender_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  uint64_t next_sequence_ = 1;
  uint64_t next_step_ = 1;
};

}  // namespace quire
