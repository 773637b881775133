#include "tests/emu/fiber.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdlib>

#include "tests/emu/sanitizer.h"

#if !defined(EMU_UCONTEXT)
// Saves what a call must preserve, swaps stacks, restores. The control words of the FPU are the same
// everywhere.
extern "C" void emu_switch_stack(void** save_stack_pointer, void* stack_pointer);
asm(R"(
.text
.p2align 4
.globl emu_switch_stack
.hidden emu_switch_stack
.type emu_switch_stack,@function
emu_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch_stack,.-emu_switch_stack
)");
#endif

namespace emu {
namespace {

// ThreadSanitizer clears its record of a stack at each restart: most of what a small kernel costs.
constexpr size_t kStackBytes = (sanitizer::kThreads ? 32 : 128) * size_t{1024};
constexpr size_t kGuardBytes = 4096;

char* map_stack(void* at, int extra_flags) {
  void* memory = mmap(at, kStackBytes + (at == nullptr ? kGuardBytes : 0), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | extra_flags, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  return static_cast<char*>(memory);
}

}  // namespace

Fiber::Fiber(ThisThread /*tag*/) {
  pthread_attr_t attributes;
  void* stack = nullptr;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &stack, &stack_bytes_);
  pthread_attr_destroy(&attributes);
  stack_ = static_cast<char*>(stack);
#if defined(EMU_TSAN)
  tsan_ = __tsan_get_current_fiber();
#endif
}

Fiber::Fiber() : stack_bytes_(kStackBytes), owns_stack_(true) {
  char* memory = map_stack(nullptr, 0);
  mprotect(memory, kGuardBytes, PROT_NONE);
  stack_ = memory + kGuardBytes;
}

Fiber::~Fiber() {
  if (!owns_stack_) return;
  sanitizer::unpoison(stack_, stack_bytes_);
#if defined(EMU_TSAN)
  if (tsan_ != nullptr) __tsan_destroy_fiber(tsan_);
#endif
  munmap(stack_ - kGuardBytes, kStackBytes + kGuardBytes);
}

void Fiber::restart(void (*entry)()) {
  sanitizer::unpoison(stack_, stack_bytes_);
  fake_stack_ = nullptr;
#if defined(EMU_TSAN)
  if (tsan_ != nullptr) __tsan_destroy_fiber(tsan_);
  tsan_ = __tsan_create_fiber(0);
  map_stack(stack_, MAP_FIXED);  // forgets what the former owner of the stack did there
#endif
#if defined(EMU_UCONTEXT)
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = stack_bytes_;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#else
  // As if entry had been called by nobody, with six registers saved below its return address.
  void** top = reinterpret_cast<void**>(stack_ + stack_bytes_) - 2;
  top[1] = nullptr;
  top[0] = reinterpret_cast<void*>(entry);
  for (int saved = 1; saved <= 6; ++saved) top[-saved] = nullptr;
  stack_pointer_ = top - 6;
#endif
}

void Fiber::abandon_to([[maybe_unused]] const Fiber& host) const {
#if defined(EMU_TSAN)
  // In name only: nothing runs between the two switches.
  __tsan_switch_to_fiber(tsan_, sanitizer::kSync);
  __tsan_switch_to_fiber(host.tsan_, sanitizer::kSync);
#endif
}

void Fiber::switch_to(Fiber& to, [[maybe_unused]] bool ends) {
#if defined(EMU_ASAN)
  __sanitizer_start_switch_fiber(ends ? nullptr : &fake_stack_, to.stack_, to.stack_bytes_);
#endif
#if defined(EMU_TSAN)
  __tsan_switch_to_fiber(to.tsan_, sanitizer::kNoSync);
#endif
#if defined(EMU_UCONTEXT)
  swapcontext(&context_, &to.context_);
#else
  emu_switch_stack(&stack_pointer_, to.stack_pointer_);
#endif
#if defined(EMU_ASAN)
  __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
}

void Fiber::entered() {
#if defined(EMU_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

}  // namespace emu
