#include "bindings/c/api.h"

namespace quire::capi {
namespace {

struct ErrorText {
  uintptr_t cache = 0;
  std::string text;
};

ErrorText& error_of_open() {
  thread_local ErrorText error;
  return error;
}

ErrorText& error_of_cache() {
  thread_local ErrorText error;
  return error;
}

template <typename Object>
Result<Found<Object>> find(HandleKind kind, const void* handle, const char* name) {
  Found<Object> found;
  found.object = static_cast<Object*>(HandleTable::instance().find(kind, number(handle), &found.cache));
  if (found.object == nullptr) {
    return invalid(std::string("this ") + name +
                   " is not open: it was closed or freed before, or never was one");
  }
  return found;
}

}  // namespace

Result<Found<CacheObject>> find_cache(const quire_cache* handle) {
  Result<Found<CacheObject>> found = find<CacheObject>(HandleKind::kCache, handle, "quire_cache");
  if (found.ok()) found->cache = number(handle);
  return found;
}

Result<Found<SequenceObject>> find_sequence(const quire_sequence* handle) {
  return find<SequenceObject>(HandleKind::kSequence, handle, "quire_sequence");
}

Result<Found<StepObject>> find_step(const quire_step* handle) {
  return find<StepObject>(HandleKind::kStep, handle, "quire_step");
}

void set_error(uintptr_t cache, const std::string& message) {
  ErrorText& error = cache == 0 ? error_of_open() : error_of_cache();
  error = {cache, message};
}

const char* last_error(uintptr_t cache) {
  const ErrorText& error = cache == 0 ? error_of_open() : error_of_cache();
  if (error.cache == cache) return error.text.c_str();
  // A call on a closed handle has no cache to belong to.
  return HandleTable::instance().find(HandleKind::kCache, cache) == nullptr ? error_of_open().text.c_str()
                                                                            : "";
}

}  // namespace quire::capi
