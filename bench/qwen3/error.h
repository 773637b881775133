// How the decoder and its programs report bad input: one sentence that names the thing and the way out.
// Programs catch it in main and exit with code 2. Thread safety: a value.
#pragma once

#include <stdexcept>

namespace quire::qwen3 {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The cache has no room in its budgets for what was asked.
class OverBudget : public Error {
 public:
  using Error::Error;
};

}  // namespace quire::qwen3
