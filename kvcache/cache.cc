#include "kvcache/cache.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "kvcache/device_tensors.h"

namespace quire {

// ---- steps and the stream ----

OpenStep::~OpenStep() {
  if (event_fd_ >= 0) close(event_fd_);
}

void OpenStep::begin_work() {
  const std::scoped_lock lock(mutex_);
  if (++pending_ != 1 || event_fd_ < 0) return;
  uint64_t drained = 0;
  // Nothing to read is as good as something read: the descriptor is not readable afterwards.
  [[maybe_unused]] const ssize_t got = read(event_fd_, &drained, sizeof drained);
}

void OpenStep::end_work() {
  const std::scoped_lock lock(mutex_);
  if (--pending_ != 0 || event_fd_ < 0) return;
  const uint64_t one = 1;
  // A counter of 1 on an empty eventfd cannot overflow: the write does not fail.
  [[maybe_unused]] const ssize_t put = write(event_fd_, &one, sizeof one);
}

template <typename Work>
auto Cache::on_stream(Work&& work) {
  std::optional<decltype(work())> result;
  const auto run = [&] { result.emplace(work()); };
  Status status = stream_->launch(run);
  if (status.ok()) status = stream_->synchronize();
  if (!result.has_value()) result.emplace(std::move(status));
  return std::move(*result);
}

Status Cache::run(const std::function<Status()>& work) { return on_stream(work); }

Result<std::unique_ptr<Cache>> Cache::create(const CacheContext& context, Device& device) {
  std::unique_ptr<Cache> cache(new Cache(context));
  Result<std::unique_ptr<Stream>> stream = device.create_stream();
  if (!stream.ok()) return stream.status();
  cache->stream_ = std::move(*stream);
  Result<std::unique_ptr<Attender>> attender = Attender::create(context);
  if (!attender.ok()) return attender.status();
  cache->attender_ = std::move(*attender);
  return cache;
}

Cache::~Cache() {
  // The stream finishes its work first; then nothing uses the sequences.
  stream_.reset();
  attender_.reset();
  for (auto& sequence : sequences_) free_sequence(context_, sequence.get());
}

// ---- sequences ----

Result<Sequence*> Cache::create_sequence() {
  return on_stream([&]() -> Result<Sequence*> {
    sequences_.push_back(new_sequence(context_, next_sequence_++));
    return sequences_.back().get();
  });
}

Result<Sequence*> Cache::fork(Sequence* sequence) {
  return on_stream([&]() -> Result<Sequence*> {
    if (sequence->in_step)
      return invalid("a sequence cannot be forked while a step appends to it; end the step first");
    std::unique_ptr<Sequence> copy = new_sequence(context_, next_sequence_++);
    if (Status status = fork_sequence(context_, *sequence, copy.get()); !status.ok()) {
      free_sequence(context_, copy.get());
      return status;
    }
    live_prefixes_.copy(sequence, copy.get());
    sequences_.push_back(std::move(copy));
    return sequences_.back().get();
  });
}

Status Cache::truncate(Sequence* sequence, uint64_t length) {
  return on_stream([&]() -> Status {
    if (sequence->in_step)
      return invalid("a sequence cannot be truncated while a step appends to it; end the step first");
    attender_->release_ahead();
    if (Status status = truncate_sequence(context_, sequence, length); !status.ok()) return status;
    live_prefixes_.cut(sequence, length / context_.config.page_tokens);
    return {};
  });
}

Status Cache::set_rope(Sequence* sequence, Rope rope) {
  if (Status status = validate_rope(rope, context_.config.head_dim); !status.ok()) return status;
  return on_stream([&]() -> Status {
    if (sequence->in_step)
      return invalid("rope cannot change while a step appends to the sequence; end the step first");
    attender_->release_ahead();  // which of these pages are of the rope was told when they were looked up
    sequence->rope = std::move(rope);
    if (context_.config.key_space == KeySpace::kPreRope) {
      sequence->offsets = make_rope_offsets(sequence->rope, context_.config.page_tokens);
    }
    return {};
  });
}

Status Cache::free(Sequence* sequence) {
  return on_stream([&]() -> Status {
    if (sequence->in_step)
      return invalid("a sequence cannot be freed while a step appends to it; end the step first");
    attender_->release_ahead();
    live_prefixes_.cut(sequence, 0);
    free_sequence(context_, sequence);
    std::erase_if(sequences_, [&](const auto& s) { return s.get() == sequence; });
    return {};
  });
}

uint64_t Cache::length(Sequence* sequence) {
  const Result<uint64_t> length = on_stream([&]() -> Result<uint64_t> { return sequence->length; });
  return length.ok() ? *length : 0;
}

// ---- steps ----

Status Cache::check_requests(std::span<const StepRequest> requests) const {
  if (requests.empty()) return invalid("a step needs at least one sequence");
  uint64_t tokens = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const StepRequest& r = requests[i];
    const uint64_t length = r.sequence->length;
    const std::string range = std::to_string(r.count) + " tokens at position " + std::to_string(r.first);
    if (r.count == 0) return invalid("entry " + std::to_string(i) + " of the step has no tokens");
    const bool is_new = r.first == length;
    const bool is_replay = r.first < length && r.count <= length - r.first;
    if (!is_new && !is_replay) {
      return invalid("entry " + std::to_string(i) + " has " + range + " but the sequence has " +
                     std::to_string(length) + " tokens: new tokens start there, a replay ends before");
    }
    if (is_new && r.sequence->in_step) {
      return invalid("entry " + std::to_string(i) +
                     ": another open step appends to this sequence; end it first");
    }
    for (size_t j = 0; j < i; ++j) {
      if (requests[j].sequence == r.sequence) return invalid("a sequence stands twice in one step");
    }
    if (context_.config.key_space == KeySpace::kPreRope && r.sequence->rope.inv_freq.empty()) {
      return invalid("a pre_rope sequence needs quire_sequence_set_rope before its first step");
    }
    tokens += std::min(r.count, uint64_t{UINT32_MAX});
  }
  if (tokens > context_.config.max_step_tokens) {
    return invalid("the step has " + std::to_string(tokens) + " tokens and max_step_tokens is " +
                   std::to_string(context_.config.max_step_tokens) + "; split it or raise the option");
  }
  return {};
}

void Cache::start_step(Step* step, std::span<const StepRequest> requests) {
  step->number = next_step_++;
  step->appended.assign(context_.config.layers, false);
  for (const StepRequest& r : requests) {
    const bool replay = r.first < r.sequence->length;
    step->entries.push_back({r.sequence, r.first, r.count, replay, step->tokens});
    step->tokens += static_cast<uint32_t>(r.count);
    if (!replay) r.sequence->in_step = true;
    ResidencyLock lock = context_.residency.lock();
    for (SequenceLayer& layer : r.sequence->layers) layer.table->last_used = step->number;
  }
}

Result<std::unique_ptr<OpenStep>> Cache::begin(std::span<const StepRequest> requests) {
  return on_stream([&]() -> Result<std::unique_ptr<OpenStep>> {
    if (Status status = check_requests(requests); !status.ok()) return status;
    auto open = std::make_unique<OpenStep>();
    start_step(&open->step_, requests);
    return open;
  });
}

Status Cache::enqueue(OpenStep* open, std::function<Status(Step*)> work) {
  open->begin_work();
  Status status = stream_->launch([open, work = std::move(work)] {
    Step* step = &open->step_;
    // After a failure the rest of what was enqueued does not run; the failure is reported at wait.
    if (step->status.ok()) step->status = work(step);
    open->end_work();
  });
  if (!status.ok()) open->end_work();
  return status;
}

Status Cache::check_layer(uint32_t layer) const {
  if (layer < context_.config.layers) return {};
  return invalid("layer " + std::to_string(layer) + " does not exist; the cache has " +
                 std::to_string(context_.config.layers));
}

Status Cache::append(OpenStep* open, uint32_t layer, const TensorView& keys, const TensorView& values) {
  if (Status status = check_layer(layer); !status.ok()) return status;
  return enqueue(open, [this, layer, keys, values](Step* step) -> Status {
    if (step->failed) return invalid("an append of this step failed: it can only be ended");
    if (step->appended[layer])
      return invalid("layer " + std::to_string(layer) + " was appended in this step already");
    const uint32_t heads = context_.config.kv_heads;
    const Result<TensorView> host_keys = bring_down(context_, keys, step->tokens, heads, 0);
    if (!host_keys.ok()) return host_keys.status();
    const Result<TensorView> host_values = bring_down(context_, values, step->tokens, heads, 1);
    if (!host_values.ok()) return host_values.status();
    return append_tokens(context_, step, layer, {*host_keys, *host_values}, {keys, values});
  });
}

Status Cache::check_attend(const Step& step, uint32_t layer, const AttendArgs& args) const {
  if (step.failed) return invalid("an append of this step failed: it can only be ended");
  if (!step.appended[layer] || step.open_layer != static_cast<int64_t>(layer)) {
    return invalid("attend of layer " + std::to_string(layer) +
                   " must come after its append and before the append of another layer in this step");
  }
  const uint32_t page_tokens = context_.config.page_tokens;
  for (const StepEntry& entry : step.entries) {
    const FrameRun& run = entry.run(layer);
    for (uint64_t i = 0; entry.replay && i < entry.count; ++i) {
      if (args.row_mask != nullptr && args.row_mask[entry.token_offset + i] == 0) continue;
      const uint64_t position = entry.first + i;
      if (run.begin <= uint64_t{first_recent_page(context_.config, position)} * page_tokens) continue;
      return invalid(
          "the replayed query at position " + std::to_string(position) +
          " needs its own page unfolded from its first token on; replay from there or mask the row");
    }
  }
  return {};
}

Status Cache::attend(OpenStep* open, uint32_t layer, const AttendArgs& args) {
  if (Status status = check_layer(layer); !status.ok()) return status;
  return enqueue(open, [this, layer, args](Step* step) -> Status {
    if (Status status = check_attend(*step, layer, args); !status.ok()) return status;
    const uint32_t heads = context_.config.query_heads;
    const Result<TensorView> queries = bring_down(context_, args.queries, step->tokens, heads, 0);
    if (!queries.ok()) return queries.status();
    AttendArgs on_host = args;
    on_host.queries = *queries;
    on_host.out = stand_in(context_, args.out, heads);
    if (Status status = attender_->run(step, layer, on_host); !status.ok()) return status;
    return bring_up(context_, on_host.out, args.out, step->tokens, heads);
  });
}

Status Cache::choose_ahead(OpenStep* open, uint32_t layer, const AttendArgs& args) {
  if (Status status = check_layer(layer); !status.ok()) return status;
  return enqueue(open, [this, layer, args](Step* step) -> Status {
    if (step->failed) return invalid("an append of this step failed: it can only be ended");
    const Result<TensorView> queries =
        bring_down(context_, args.queries, step->tokens, context_.config.query_heads, 0);
    if (!queries.ok()) return queries.status();
    AttendArgs on_host = args;
    on_host.queries = *queries;
    return attender_->choose_ahead(step, layer, on_host);
  });
}

Status Cache::run_after(OpenStep* open, std::shared_ptr<Event> event) {
  return enqueue(open, [event = std::move(event)](Step*) { return event->synchronize(); });
}

Status Cache::wait(OpenStep* open) {
  if (Status status = stream_->synchronize(); !status.ok()) return status;
  return std::exchange(open->step_.status, Status());
}

Status Cache::poll(OpenStep* open) {
  const std::scoped_lock lock(open->mutex_);
  if (open->pending_ != 0) return {StatusCode::kNotReady, "work of the step is still running"};
  return std::exchange(open->step_.status, Status());
}

Result<int> Cache::event_fd(OpenStep* open) {
  const std::scoped_lock lock(open->mutex_);
  if (open->event_fd_ < 0) {
    open->event_fd_ = eventfd(open->pending_ == 0 ? 1 : 0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (open->event_fd_ < 0) {
      return Status(StatusCode::kIo,
                    std::string("no event descriptor for the step: ") + std::strerror(errno));
    }
  }
  return open->event_fd_;
}

Miss Cache::miss(OpenStep* open) {
  const std::scoped_lock lock(open->mutex_);
  return open->step_.miss;
}

void Cache::forget_tokens(const Step& step) {
  attender_->release_ahead();
  for (const StepEntry& entry : step.entries) {
    if (!entry.replay) undo_step(context_, entry.sequence, entry.first);
  }
}

Status Cache::finish_step(Step* step) {
  close_layer(context_, step);
  const bool writes =
      std::any_of(step->entries.begin(), step->entries.end(), [](const auto& e) { return !e.replay; });
  const auto missing = std::find(step->appended.begin(), step->appended.end(), false);
  const bool complete = missing == step->appended.end();
  Status status;
  if (writes && !complete) {
    forget_tokens(*step);
    if (!step->failed) {
      status = invalid("layer " + std::to_string(missing - step->appended.begin()) +
                       " was not appended in this step; its tokens are forgotten");
    }
  }
  for (const StepEntry& entry : step->entries) {
    if (entry.replay) continue;
    if (complete) entry.sequence->length = entry.first + entry.count;
    entry.sequence->in_step = false;
    for (SequenceLayer& layer : entry.sequence->layers) {
      free_frames(context_, &layer.replay);
      free_frames(context_, &layer.before);
    }
  }
  return status;
}

Status Cache::end(OpenStep* open) {
  return on_stream([&] { return finish_step(&open->step_); });
}

// ---- pages ----

Status Cache::refill(Sequence* sequence, uint32_t layer, uint64_t first, uint64_t count,
                     const TensorView& keys, const TensorView& values) {
  if (Status status = check_layer(layer); !status.ok()) return status;
  return on_stream([&]() -> Status {
    const uint64_t page_tokens = context_.config.page_tokens;
    uint64_t sealed = 0;
    {
      ResidencyLock lock = context_.residency.lock();
      sealed = sequence->layers[layer].table->pages.size() * page_tokens;
    }
    if (first % page_tokens != 0 || count % page_tokens != 0 || count == 0 || first > sealed ||
        count > sealed - first) {
      return invalid("refill of " + std::to_string(count) + " tokens at " + std::to_string(first) +
                     ": use whole sealed pages, as quire_step_miss names them");
    }
    return refill_pages(context_, sequence, layer, static_cast<uint32_t>(first / page_tokens),
                        static_cast<uint32_t>(count / page_tokens), keys, values);
  });
}

Status Cache::prefetch(Sequence* sequence, uint32_t layer, uint64_t first, uint64_t count) {
  if (Status status = check_layer(layer); !status.ok()) return status;
  return on_stream([&]() -> Status {
    const uint64_t page_tokens = context_.config.page_tokens;
    uint64_t pages = 0;
    {
      ResidencyLock lock = context_.residency.lock();
      pages = sequence->layers[layer].table->pages.size();
    }
    const uint64_t begin = std::min(first / page_tokens, pages);
    const uint64_t end =
        std::min(pages, count > UINT64_MAX - first ? pages : (first + count + page_tokens - 1) / page_tokens);
    if (begin < end) {
      attender_->prefetch(*sequence, layer, static_cast<uint32_t>(begin), static_cast<uint32_t>(end - begin));
    }
    return {};
  });
}

Status Cache::flush() {
  return on_stream([&]() -> Status {
    Pager* pager = context_.residency.pager();
    return pager == nullptr ? Status() : pager->flush();
  });
}

CacheCounts Cache::counts() {
  const Result<CacheCounts> counts = on_stream([&]() -> Result<CacheCounts> {
    CacheCounts c;
    c.sequences = sequences_.size();
    const uint64_t page_tokens = context_.config.page_tokens;
    for (const auto& sequence : sequences_) {
      for (const SequenceLayer& layer : sequence->layers) c.tail_tokens += layer.live.end % page_tokens;
    }
    ResidencyLock lock = context_.residency.lock();
    const uint64_t pages = context_.residency.counts(lock).pages;
    c.tokens = (pages * page_tokens + c.tail_tokens) / context_.config.layers;
    return c;
  });
  return counts.ok() ? *counts : CacheCounts{};
}

}  // namespace quire
