// What the emulator tells the sanitizers. Without one every function is empty.
//
// The emulator itself is never compiled with -fsanitize=thread: it moves data on behalf of 32 lanes, which is
// no race. EMU_TSAN says that the kernels are. Thread safety: that of the sanitizer's own functions.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(EMU_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void __tsan_read_range(void* address, unsigned long size);
void __tsan_write_range(void* address, unsigned long size);
}
#endif

namespace emu::sanitizer {

#if defined(EMU_TSAN)
inline constexpr bool kThreads = true;
inline constexpr unsigned kSync = 0;
inline constexpr unsigned kNoSync = 1;  // a switch orders nothing
inline void acquire(void* at) { __tsan_acquire(at); }
inline void release(void* at) { __tsan_release(at); }
inline void will_read(const void* at, size_t n) { __tsan_read_range(const_cast<void*>(at), n); }
inline void will_write(void* at, size_t n) { __tsan_write_range(at, n); }
#else
inline constexpr bool kThreads = false;
inline void acquire(void*) {}
inline void release(void*) {}
inline void will_read(const void*, size_t) {}
inline void will_write(void*, size_t) {}
#endif

#if defined(EMU_ASAN)
inline void poison(void* at, size_t n) { ASAN_POISON_MEMORY_REGION(at, n); }
inline void unpoison(void* at, size_t n) { ASAN_UNPOISON_MEMORY_REGION(at, n); }
#else
inline void poison(void*, size_t) {}
inline void unpoison(void*, size_t) {}
#endif

}  // namespace emu::sanitizer
