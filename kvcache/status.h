// Status and Result<T>: how every fallible call of Quire reports. No exceptions inside the library.
//
// The codes are the C API's (bindings/c/quire.h pins the same values). A message is one clear sentence that
// names the thing and the way out. Thread safety: values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace quire {

enum class StatusCode : int32_t {
  kOk = 0,
  kMiss = 1,         // pages are lost: recompute the token range and refill it
  kNotReady = 2,     // poll: work is still running
  kInvalid = 3,      // an argument is wrong
  kOverBudget = 4,   // a byte budget does not allow it
  kIo = 5,           // a file or disk failed
  kDeadline = 6,     // something took longer than its deadline
  kUnsupported = 7,  // this build or machine cannot do it
  kNotFinite = 8,    // NaN or infinity in K, V or Q
  kDeviceLost = 9,   // the device cannot be used any more
  kInternal = 10,    // a bug in Quire
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status invalid(std::string message) { return {StatusCode::kInvalid, std::move(message)}; }

// A value or the reason there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}          // NOLINT(google-explicit-constructor)
  Result(Status status) : status_(std::move(status)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  T& value() { return *value_; }
  const T& value() const { return *value_; }
  T& operator*() { return *value_; }
  const T& operator*() const { return *value_; }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace quire
