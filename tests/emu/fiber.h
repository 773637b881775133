// A fiber: a stack of its own and the place on it where execution goes on. A CUDA thread is one.
//
// On x86-64 the switch is a dozen instructions; elsewhere, and with EMU_UCONTEXT defined, it is ucontext's.
// Both tell AddressSanitizer and ThreadSanitizer what they do. Thread safety: a fiber stays on the operating
// system's thread that runs it first.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__) && !defined(EMU_UCONTEXT)
#define EMU_UCONTEXT
#endif
#if defined(EMU_UCONTEXT)
#include <ucontext.h>
#endif

namespace emu {

class Fiber {
 public:
  // Stands for the calling thread on the stack that it has.
  struct ThisThread {};
  explicit Fiber(ThisThread tag);
  // Has a stack with a guard page below it; `restart` gives it something to do.
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next switch to it calls entry(), which must end with a switch away and never return. With a sanitizer
  // it is a new thread from here on: nothing that was done before is ordered with what it does.
  void restart(void (*entry)());
  // Goes on in `to`; returns when someone switches back. ends: this fiber will not be switched to before a
  // restart.
  void switch_to(Fiber& to, bool ends = false);
  // Nobody will switch to it again: all it did is before what `host`, the caller, does from here on.
  void abandon_to(const Fiber& host) const;
  // What a restarted fiber does first.
  static void entered();

  void* sanitizer_identity() const { return tsan_; }

 private:
  char* stack_ = nullptr;
  size_t stack_bytes_ = 0;
  bool owns_stack_ = false;
  void* fake_stack_ = nullptr;  // AddressSanitizer's
  void* tsan_ = nullptr;        // ThreadSanitizer's
#if defined(EMU_UCONTEXT)
  ucontext_t context_{};
#else
  void* stack_pointer_ = nullptr;
#endif
};

}  // namespace emu
