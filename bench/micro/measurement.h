// A case that is measured round by round. Thread safety: one thread.
#pragma once

#include "bench/micro/row.h"

namespace quire::micro {

class Measurement {
 public:
  virtual ~Measurement() = default;
  // Works through the case and its floor once. Returns the seconds of the case.
  virtual double round() = 0;
  // What all rounds so far came to; at least one.
  virtual Row row() const = 0;
};

}  // namespace quire::micro
