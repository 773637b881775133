#include "tests/emu/device.h"

#include <array>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/emu/block.h"
#include "tests/emu/sanitizer.h"

namespace emu {

void fail(const char* format, ...) {
  std::array<char, 1024> text{};
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text.data(), text.size(), format, arguments);
  va_end(arguments);
  Block* block = running_block();
  if (block == nullptr) {
    std::fprintf(stderr, "emulator, outside a kernel: %s\n", text.data());
    std::abort();
  }
  block->fail(text.data());
}

int block_barrier(Vote vote, int predicate, const Site& site) {
  return running_block()->barrier(vote, predicate, site);
}

void warp_collective(const char* name, unsigned mask, const void* in, void* out, Combine combine, bool fences,
                     const Site& site) {
  running_block()->collective(name, mask, in, out, combine, fences, site);
}

void* static_shared(const void* key, size_t bytes, size_t align) {
  return running_block()->static_shared(key, bytes, align);
}

void* dynamic_shared(unsigned index, size_t offset, size_t bytes) {
  return running_block()->dynamic_shared(index, offset, bytes);
}

bool is_shared(const void* at, size_t bytes) { return running_block()->is_shared(at, bytes); }

void check_aligned(const void* at, size_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(at) % bytes != 0)
    fail("%s: the address is no multiple of %zu bytes", what, bytes);
}

void copy_async(void* dst, const void* src, size_t bytes, const Site& site) {
  if (bytes != 4 && bytes != 8 && bytes != 16) {
    fail("cp.async at %s:%u: %zu bytes; 4, 8 and 16 exist", site.file_name(), site.line(), bytes);
  }
  check_aligned(dst, bytes, "cp.async");
  check_aligned(src, bytes, "cp.async");
  if (!is_shared(dst, bytes)) {
    fail("cp.async at %s:%u: the destination is no shared memory", site.file_name(), site.line());
  }
  std::memset(dst, 0xFF, bytes);
  Block::CopyQueue& queue = running_block()->copies();
  if (queue.issued - queue.done == Block::CopyQueue::kCopies) {
    fail("cp.async: a thread has more than %zu copies in flight", Block::CopyQueue::kCopies);
  }
  queue.copies[queue.issued++ % Block::CopyQueue::kCopies] = {dst, src, bytes};
}

void copy_async_commit() {
  Block::CopyQueue& queue = running_block()->copies();
  if (queue.groups_issued - queue.groups_done == Block::CopyQueue::kGroups) {
    fail("cp.async: a thread has more than %zu groups in flight", Block::CopyQueue::kGroups);
  }
  queue.group_end[queue.groups_issued++ % Block::CopyQueue::kGroups] = queue.issued;
}

void copy_async_wait(size_t groups_left) {
  Block::CopyQueue& queue = running_block()->copies();
  while (queue.groups_issued - queue.groups_done > groups_left) {
    const uint64_t end = queue.group_end[queue.groups_done++ % Block::CopyQueue::kGroups];
    for (; queue.done < end; ++queue.done) {
      const Block::Copy& copy = queue.copies[queue.done % Block::CopyQueue::kCopies];
      std::memcpy(copy.dst, copy.src, copy.bytes);
    }
  }
}

void thread_fence() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!sanitizer::kThreads) return;
  Block::Ordering& ordering = running_block()->ordering();
  ordering.fenced = true;
  for (size_t i = 0; i < ordering.count; ++i) sanitizer::acquire(ordering.atomics[i]);
  ordering.count = 0;
}

void before_atomic(void* at) {
  if (sanitizer::kThreads && running_block()->ordering().fenced) sanitizer::release(at);
}

void after_atomic(void* at) {
  if (!sanitizer::kThreads) return;
  Block::Ordering& ordering = running_block()->ordering();
  if (ordering.count < ordering.atomics.size()) ordering.atomics[ordering.count++] = at;
}

}  // namespace emu
