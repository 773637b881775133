// What the C functions share: handles to objects, errors to sentences, exceptions to statuses.
// Thread safety: the error texts are per thread.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/c/quire.h"
#include "bindings/engine.h"
#include "bindings/handles.h"

namespace quire::capi {

// A cache, a sequence or a step as its handle finds it.
struct CacheObject {
  std::unique_ptr<Engine> engine;
};
struct SequenceObject {
  Engine* engine;
  Sequence* sequence;
};
struct StepObject {
  Engine* engine;
  std::unique_ptr<OpenStep> step;
  void* stream = nullptr;                                  // the engine's, or nullptr
  std::vector<std::pair<Sequence*, uintptr_t>> sequences;  // with their handles, for misses
};

// The handle of a cache that was put together elsewhere: tests bring their own clock, io engine and device.
quire_cache* adopt(std::unique_ptr<Engine> engine);

inline uintptr_t number(const void* handle) { return reinterpret_cast<uintptr_t>(handle); }

// The object behind a handle and the handle of its cache.
template <typename Object>
struct Found {
  Object* object = nullptr;
  uintptr_t cache = 0;
};

Result<Found<CacheObject>> find_cache(const quire_cache* handle);
Result<Found<SequenceObject>> find_sequence(const quire_sequence* handle);
Result<Found<StepObject>> find_step(const quire_step* handle);

// The sentence for quire_last_error; cache 0: of quire_open and of calls whose handle was not open.
void set_error(uintptr_t cache, const std::string& message);
const char* last_error(uintptr_t cache);

// Runs body() -> Status, turns exceptions into statuses and stores the sentence of a failure.
template <typename Body>
quire_status guarded(uintptr_t cache, Body&& body) noexcept {
  Status status;
  try {
    status = body();
    if (!status.ok()) set_error(cache, status.message());
  } catch (const std::bad_alloc&) {
    return QUIRE_OVER_BUDGET;  // the system has no memory left: there is none for a sentence either
  } catch (...) {
    return QUIRE_INTERNAL;
  }
  return static_cast<quire_status>(status.code());
}

// The same for a function of an object: body(Found<Object>&) -> Status.
template <typename Object, typename Body>
quire_status guarded_with(const Result<Found<Object>>& found, Body&& body) noexcept {
  if (!found.ok()) return guarded(0, [&] { return found.status(); });
  return guarded(found->cache, [&] { return body(*found); });
}

}  // namespace quire::capi
