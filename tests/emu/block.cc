#include "tests/emu/block.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "tests/emu/limits.h"
#include "tests/emu/sanitizer.h"

namespace emu {

constinit thread_local ThreadContext* self = nullptr;

namespace {

thread_local Block* running = nullptr;
std::atomic<uint64_t> switches{0};
constexpr size_t kSharedParts = 64;
char allocation_key;  // orders the filling of shared memory before its use

uint64_t mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9U;
  x = (x ^ x >> 27) * 0x94D049BB133111EBU;
  return x ^ x >> 31;
}

std::string place(const Site& site) {
  return std::string(site.file_name()) + ":" + std::to_string(site.line()) + ":" +
         std::to_string(site.column());
}

bool same_site(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

}  // namespace

// Not inlined: a fiber must not keep the address of another thread's variable across a switch.
[[gnu::noinline]] Block* running_block() { return running; }

uint64_t switch_count() { return switches.load(); }

Block::Block() : host_(Fiber::ThisThread{}) {}
Block::~Block() = default;

uint64_t Block::random() {
  random_ += 0x9E3779B97F4A7C15U;
  return mix(random_);
}

void Block::run_grid(Launch* launch) {
  launch_ = launch;
  running = this;
  const uint64_t blocks = uint64_t{launch->grid.x} * launch->grid.y * launch->grid.z;
  for (uint64_t b = 0; b < blocks && !launch->failed; ++b) {
    run_block(settings().schedule == Schedule::kReverse ? blocks - 1 - b : b);
  }
  sanitizer::acquire(&end_key_);
  if (launch->failed) {
    for (unsigned i = 0; i < count_; ++i) threads_[i]->fiber.abandon_to(host_);
  }
  retired_.clear();
  running = nullptr;
}

void Block::run_block(uint64_t ordinal) {
  start_threads(ordinal);
  Thread* first = next();
  go_on_with(first);
  host_.switch_to(first->fiber);
  // Blocks of one launch are not ordered, so that what one wrote must not be freed for the next one's use.
  if (sanitizer::kThreads) {
    std::move(shared_.begin(), shared_.end(), std::back_inserter(retired_));
  }
  shared_.clear();
}

void Block::start_threads(uint64_t ordinal) {
  const dim3 shape = launch_->block;
  const dim3 grid = launch_->grid;
  count_ = shape.x * shape.y * shape.z;
  while (threads_.size() < count_) threads_.push_back(std::make_unique<Thread>());
  ready_.resize(count_);
  ready_begin_ = ready_count_ = 0;
  warps_.assign((count_ + 31) / 32, Warp{});
  if (count_ % 32 != 0) warps_.back().exited = ~0U << count_ % 32;
  live_ = count_;
  at_barrier_ = exited_ = 0;
  barriers_ = 0;
  copy_barriers_.count = 0;
  static_bytes_ = 0;
  shared_.reserve(kSharedParts);
  random_ = mix(settings().seed) + ordinal;
  sync_keys_ = std::make_unique<uint64_t[]>(2 + 2 * warps_.size());
  for (unsigned k = 0; k < count_; ++k) {
    const unsigned i = settings().schedule == Schedule::kReverse ? count_ - 1 - k : k;
    Thread& thread = *threads_[i];
    thread.context = {
        {i % shape.x, i / shape.x % shape.y, i / (shape.x * shape.y)},
        {static_cast<unsigned>(ordinal % grid.x), static_cast<unsigned>(ordinal / grid.x % grid.y),
         static_cast<unsigned>(ordinal / (uint64_t{grid.x} * grid.y))},
        shape,
        grid,
        i % 32,
        i / 32};
    CopyQueue& copies = thread.copies;
    copies.issued = copies.done = copies.groups_issued = copies.groups_done = 0;
    thread.products.count = thread.products.committed = 0;
    thread.ordering = {};
    thread.fiber.restart(&Block::thread_main);
    make_ready(&thread);
  }
  sanitizer::release(&begin_key_);
}

void Block::thread_main() {
  Fiber::entered();
  Block* block = running_block();
  sanitizer::acquire(&block->begin_key_);
  try {
    block->launch_->body();
    running_block()->end_thread();
  } catch (const KernelFailure&) {
    block->launch_->failed = true;
    sanitizer::release(&block->end_key_);
  }
  block = running_block();
  // The other threads are left where they are: nothing that waits owns anything.
  Thread* other = block->launch_->failed ? nullptr : block->next();
  block->leave(other);
  std::abort();
}

void Block::make_ready(Thread* thread) {
  thread->state = State::kReady;
  ready_at(ready_count_++) = thread;
}

Block::Thread* Block::next() {
  if (ready_count_ == 0) return nullptr;
  size_t chosen = 0;
  if (settings().schedule == Schedule::kRandom) {
    chosen = random() % ready_count_;
  } else if (settings().schedule == Schedule::kGreedy) {
    const auto rank = [this](size_t i) { return mix(settings().seed * 131 + ready_at(i)->context.warp + 1); };
    for (size_t i = 1; i < ready_count_; ++i) {
      if (rank(i) > rank(chosen)) chosen = i;
    }
  }
  std::swap(ready_at(0), ready_at(chosen));
  Thread* thread = ready_at(0);
  ready_begin_ = (ready_begin_ + 1) % ready_.size();
  --ready_count_;
  return thread;
}

void Block::go_on_with(Thread* thread) {
  current_ = thread;
  self = thread == nullptr ? nullptr : &thread->context;
  switches.fetch_add(1, std::memory_order_relaxed);
}

// For good. nullptr: the block has ended.
void Block::leave(Thread* other) {
  Fiber& mine = current_->fiber;
  go_on_with(other);
  mine.switch_to(other == nullptr ? host_ : other->fiber, true);
}

// Runs someone else; returns when this thread's turn comes again.
void Block::switch_to_next() {
  Thread* mine = current_;
  Thread* other = next();
  if (other == nullptr) fail("deadlock: no thread of the block can go on" + who_waits_where());
  if (other == mine) return;
  go_on_with(other);
  mine->fiber.switch_to(other->fiber);
}

int Block::barrier(Vote vote, int predicate, const Site& site) {
  Thread* mine = current_;
  mine->name = "__syncthreads";
  mine->site = site;
  mine->mask = 0;
  mine->vote = vote;
  mine->predicate = predicate;
  mine->state = State::kBarrier;
  void* key = &sync_keys_[barriers_ % 2];
  sanitizer::release(key);
  ++at_barrier_;
  if (at_barrier_ == live_) {
    release_barrier(mine);
  } else {
    switch_to_next();
  }
  sanitizer::acquire(key);
  return mine->result;
}

void Block::check_barrier(const Thread& first) const {
  for (unsigned i = 0; i < count_; ++i) {
    const Thread& thread = *threads_[i];
    if (thread.state != State::kBarrier) continue;
    if (!same_site(thread.site, first.site) || thread.vote != first.vote) {
      fail("divergent barrier: threads of one block meet in different ones" + who_waits_where());
    }
  }
  if (exited_ > 0) {
    fail("barrier after " + std::to_string(exited_) + " thread(s) of the block have ended" +
         who_waits_where());
  }
}

// last: who completed it and goes on at once; nullptr when the others did so by ending.
void Block::release_barrier(Thread* last) {
  Thread* first = nullptr;
  unsigned yes = 0;
  for (unsigned i = 0; i < count_; ++i) {
    Thread& thread = *threads_[i];
    if (thread.state != State::kBarrier) continue;
    if (first == nullptr) first = &thread;
    yes += thread.predicate != 0 ? 1 : 0;
  }
  check_barrier(*first);
  int result = 0;
  if (first->vote == Vote::kCount) result = static_cast<int>(yes);
  if (first->vote == Vote::kAnd) result = yes == at_barrier_ ? 1 : 0;
  if (first->vote == Vote::kOr) result = yes > 0 ? 1 : 0;
  at_barrier_ = 0;
  ++barriers_;
  for (unsigned k = 0; k < count_; ++k) {
    Thread& thread = *threads_[settings().schedule == Schedule::kReverse ? count_ - 1 - k : k];
    if (thread.state != State::kBarrier) continue;
    thread.result = result;
    if (&thread == last) {
      thread.state = State::kReady;
    } else {
      make_ready(&thread);
    }
  }
}

void Block::collective(const char* name, unsigned mask, const void* in, void* out, Combine combine,
                       bool fences, const Site& site) {
  Thread* mine = current_;
  Warp& warp = warps_[mine->context.warp];
  const unsigned lane = mine->context.lane;
  if ((mask >> lane & 1U) == 0) {
    fail(std::string(name) + " at " + place(site) + ": lane " + std::to_string(lane) +
         " calls it and is not in its mask");
  }
  if ((mask & warp.exited) != 0) {
    fail(std::string(name) + " at " + place(site) + ": its mask names lanes that have ended or never were" +
         who_waits_where());
  }
  mine->name = name;
  mine->site = site;
  mine->mask = mask;
  mine->in = in;
  mine->out = out;
  warp.waiting |= 1U << lane;
  void* key = warp_key(mine->context.warp, warp.meetings);
  if (fences) sanitizer::release(key);
  if ((warp.waiting & mask) != mask) {
    mine->state = State::kCollective;
    switch_to_next();
  } else {
    std::array<const void*, 32> ins{};
    std::array<void*, 32> outs{};
    for (unsigned left = mask; left != 0; left &= left - 1) {
      const auto l = static_cast<unsigned>(std::countr_zero(left));
      const Thread& thread = *threads_[mine->context.warp * 32 + l];
      if (std::strcmp(thread.name, name) != 0 || thread.mask != mask || !same_site(thread.site, site)) {
        mine->state = State::kCollective;
        fail("warp divergence: lanes of one mask wait in different operations" + who_waits_where());
      }
      ins[l] = thread.in;
      outs[l] = thread.out;
    }
    if (combine != nullptr) combine(ins.data(), outs.data(), mask);
    warp.waiting &= ~mask;
    ++warp.meetings;
    for (unsigned k = 0; k < 32; ++k) {
      const unsigned l = settings().schedule == Schedule::kReverse ? 31 - k : k;
      if ((mask >> l & 1U) != 0 && l != lane) make_ready(threads_[mine->context.warp * 32 + l].get());
    }
  }
  if (fences) sanitizer::acquire(key);
}

void Block::wait_for(const void* barrier, const Site& site) {
  Thread* mine = current_;
  mine->name = "mbarrier.try_wait";
  mine->site = site;
  mine->mask = 0;
  mine->copy_barrier = barrier;
  mine->state = State::kCopies;
  switch_to_next();
}

bool Block::has_waiting(const void* barrier) const {
  return std::any_of(threads_.begin(), threads_.begin() + count_, [&](const auto& thread) {
    return thread->state == State::kCopies && thread->copy_barrier == barrier;
  });
}

void Block::wake_waiting(const void* barrier) {
  for (unsigned k = 0; k < count_; ++k) {
    Thread& thread = *threads_[settings().schedule == Schedule::kReverse ? count_ - 1 - k : k];
    if (thread.state == State::kCopies && thread.copy_barrier == barrier) make_ready(&thread);
  }
}

void Block::end_thread() {
  Thread* mine = current_;
  mine->state = State::kDone;
  --live_;
  ++exited_;
  Warp& warp = warps_[mine->context.warp];
  warp.exited |= 1U << mine->context.lane;
  sanitizer::release(&end_key_);
  for (unsigned waiting = warp.waiting; waiting != 0; waiting &= waiting - 1) {
    const Thread& thread =
        *threads_[mine->context.warp * 32 + static_cast<unsigned>(std::countr_zero(waiting))];
    if ((thread.mask >> mine->context.lane & 1U) == 0) continue;
    fail("lane " + std::to_string(mine->context.lane) + " has ended and lane " +
         std::to_string(thread.context.lane) + " waits for it" + who_waits_where());
  }
  if (live_ > 0 && at_barrier_ == live_) release_barrier(nullptr);
  if (live_ > 0 && ready_count_ == 0) fail("deadlock: no thread of the block can go on" + who_waits_where());
}

std::string Block::who_waits_where() const {
  std::map<std::string, std::pair<unsigned, unsigned>> groups;  // what -> how many, the first
  for (unsigned i = 0; i < count_; ++i) {
    const Thread& thread = *threads_[i];
    std::string what = thread.state == State::kDone ? "ended" : "able to run";
    if (thread.state == State::kBarrier || thread.state == State::kCollective ||
        thread.state == State::kCopies) {
      std::array<char, 16> mask{};
      std::snprintf(mask.data(), mask.size(), "%08x", thread.mask);
      what =
          std::string("waiting in ") + thread.name + " (mask " + mask.data() + ") at " + place(thread.site);
    }
    auto [group, is_new] = groups.try_emplace(what, 0U, i);
    ++group->second.first;
  }
  std::string text;
  for (const auto& [what, threads] : groups) {
    text += "\n    " + std::to_string(threads.first) + " thread(s), the first is " +
            std::to_string(threads.second) + ": " + what;
  }
  return text;
}

void Block::fail(const std::string& reason) const {
  const ThreadContext& at = current_->context;
  const auto triple = [](uint3 v) {
    return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
  };
  launch_->failure = "block " + triple(at.block) + " thread " + triple(at.thread) + ": " + reason;
  throw KernelFailure();
}

char* Block::allocate_shared(size_t bytes, size_t align) {
  // The scheduler fills it, not the thread that happened to ask first.
#if defined(EMU_TSAN)
  __tsan_switch_to_fiber(host_.sanitizer_identity(), sanitizer::kNoSync);
#endif
  void* memory = nullptr;
  if (posix_memalign(&memory, std::max<size_t>(align, 128), std::max<size_t>(bytes, 1)) != 0) std::abort();
  std::memset(memory, 0xFF, bytes);
  sanitizer::release(&allocation_key);
#if defined(EMU_TSAN)
  __tsan_switch_to_fiber(current_->fiber.sanitizer_identity(), sanitizer::kNoSync);
#endif
  sanitizer::acquire(&allocation_key);
  return static_cast<char*>(memory);
}

void Block::check_shared_parts() const {
  if (shared_.size() == kSharedParts)
    fail("a block has more than " + std::to_string(kSharedParts) + " shared arrays");
}

void* Block::static_shared(const void* key, size_t bytes, size_t align) {
  for (const Shared& shared : shared_) {
    if (shared.key != key) continue;
    sanitizer::acquire(&allocation_key);
    return shared.memory.get();
  }
  static_bytes_ += bytes;
  if (static_bytes_ > kStaticSharedLimit) {
    fail("static shared memory: " + std::to_string(static_bytes_) + " bytes, " +
         std::to_string(kStaticSharedLimit) + " are the limit");
  }
  check_shared_parts();
  shared_.push_back({key, 0, 0, bytes, {allocate_shared(bytes, align), &std::free}});
  return shared_.back().memory.get();
}

void* Block::dynamic_shared(unsigned index, size_t offset, size_t bytes) {
  if (offset + bytes > launch_->shared_bytes) {
    fail("dynamic shared memory: " + std::to_string(offset + bytes) + " bytes are used, " +
         std::to_string(launch_->shared_bytes) + " were asked for at the launch");
  }
  for (const Shared& shared : shared_) {
    if (shared.key != nullptr || shared.index != index) continue;
    if (shared.bytes != bytes || shared.offset != offset) {
      fail("dynamic shared memory: threads cut it differently");
    }
    sanitizer::acquire(&allocation_key);
    return shared.memory.get();
  }
  check_shared_parts();
  shared_.push_back({nullptr, index, offset, bytes, {allocate_shared(bytes, 128), &std::free}});
  return shared_.back().memory.get();
}

bool Block::is_shared(const void* at, size_t bytes) const {
  const auto* begin = static_cast<const char*>(at);
  return std::ranges::any_of(shared_, [&](const Shared& shared) {
    return begin >= shared.memory.get() && begin + bytes <= shared.memory.get() + shared.bytes;
  });
}

}  // namespace emu
