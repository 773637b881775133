// One thread block: a fiber per CUDA thread, and the scheduler that runs them.
//
// Exactly one thread of the block runs at a time, until it waits for others or ends. Which of those that can
// go on does is the schedule's choice. Invariant: a thread is in the ready queue, running, waiting at a
// barrier, for copies or in a warp collective, or done. Thread safety: a Block belongs to one thread of the
// host.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/emu/copies.h"
#include "tests/emu/device.h"
#include "tests/emu/fiber.h"
#include "tests/emu/products.h"

namespace emu {

// Thrown by a thread of a kernel that failed, and caught where its fiber began.
struct KernelFailure {};

struct Launch {
  dim3 grid;
  dim3 block;
  size_t shared_bytes;
  std::function<void()> body;
  bool failed = false;
  std::string failure;  // where and why
};

class Block {
 public:
  Block();
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  // All blocks of the grid, one after the other.
  void run_grid(Launch* launch);

  int barrier(Vote vote, int predicate, const Site& site);
  void collective(const char* name, unsigned mask, const void* in, void* out, Combine combine, bool fences,
                  const Site& site);
  void* static_shared(const void* key, size_t bytes, size_t align);
  void* dynamic_shared(unsigned index, size_t offset, size_t bytes);
  bool is_shared(const void* at, size_t bytes) const;
  [[noreturn]] void fail(const std::string& reason) const;

  // Asynchronous copies of one thread. Rings of fixed size: a fiber that failed is never unwound.
  struct Copy {
    void* dst;
    const void* src;
    size_t bytes;
  };
  struct CopyQueue {
    static constexpr size_t kCopies = 512;
    static constexpr size_t kGroups = 64;
    std::array<Copy, kCopies> copies;
    std::array<uint64_t, kGroups> group_end;
    uint64_t issued = 0, done = 0, groups_issued = 0, groups_done = 0;
  };
  CopyQueue& copies() { return current_->copies; }

  CopyBarriers& copy_barriers() { return copy_barriers_; }
  ProductQueue& products() { return current_->products; }
  // Threads that wait for a phase of a copy barrier.
  void wait_for(const void* barrier, const Site& site);
  bool has_waiting(const void* barrier) const;
  void wake_waiting(const void* barrier);

  // What a thread's fences and atomics have to tell ThreadSanitizer.
  struct Ordering {
    bool fenced = false;
    std::array<void*, 16> atomics{};
    size_t count = 0;
  };
  Ordering& ordering() { return current_->ordering; }

 private:
  enum class State : uint8_t { kReady, kBarrier, kCollective, kCopies, kDone };
  struct Thread {
    ThreadContext context{};
    Fiber fiber;
    State state = State::kDone;
    // Where it waits, and what it gave.
    const char* name = nullptr;
    Site site;
    unsigned mask = 0;
    const void* in = nullptr;
    void* out = nullptr;
    Vote vote = Vote::kNone;
    int predicate = 0;
    int result = 0;
    const void* copy_barrier = nullptr;
    CopyQueue copies;
    ProductQueue products;
    Ordering ordering;
  };
  struct Warp {
    unsigned waiting = 0;
    unsigned exited = 0;
    unsigned meetings = 0;
  };
  struct Shared {
    const void* key;  // nullptr: dynamic
    unsigned index;
    size_t offset;
    size_t bytes;
    std::unique_ptr<char, void (*)(void*)> memory;
  };

  static void thread_main();
  void run_block(uint64_t ordinal);
  void start_threads(uint64_t ordinal);
  Thread* next();
  Thread*& ready_at(size_t i) { return ready_[(ready_begin_ + i) % ready_.size()]; }
  void make_ready(Thread* thread);
  void switch_to_next();
  void go_on_with(Thread* thread);
  void leave(Thread* other);
  void release_barrier(Thread* last);
  void check_barrier(const Thread& first) const;
  void end_thread();
  std::string who_waits_where() const;
  void check_shared_parts() const;
  char* allocate_shared(size_t bytes, size_t align);
  uint64_t random();
  void* warp_key(unsigned warp, unsigned meeting) { return &sync_keys_[2 + 2 * warp + meeting % 2]; }

  Fiber host_;
  std::vector<std::unique_ptr<Thread>> threads_;
  unsigned count_ = 0;  // threads of the block that runs
  // A ring, the oldest at ready_begin_. It never grows while threads run: what a fiber allocates and another
  // frees would be a race to ThreadSanitizer.
  std::vector<Thread*> ready_;
  size_t ready_begin_ = 0;
  size_t ready_count_ = 0;
  std::vector<Warp> warps_;
  std::vector<Shared> shared_;
  size_t static_bytes_ = 0;
  std::vector<Shared> retired_;  // shared memory of blocks that ran, while the launch runs
  Thread* current_ = nullptr;
  CopyBarriers copy_barriers_;
  unsigned live_ = 0;
  unsigned at_barrier_ = 0;
  unsigned exited_ = 0;
  uint64_t barriers_ = 0;
  uint64_t random_ = 1;
  Launch* launch_ = nullptr;
  // Addresses that ThreadSanitizer knows the block's barriers and warps by; new ones for every block.
  std::unique_ptr<uint64_t[]> sync_keys_;
  char begin_key_ = 0;
  char end_key_ = 0;
};

// The block that runs on this thread of the host; nullptr outside kernels.
Block* running_block();
uint64_t switch_count();

}  // namespace emu
