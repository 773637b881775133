// Every case that the options ask for, by name, in an order in which neighbours share their pages.
// Thread safety: one thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/micro/measurement.h"
#include "bench/micro/options.h"

namespace quire::micro {

struct NamedCase {
  std::string name;  // case/codecs/.../isa
  uint32_t rounds;
  std::function<std::unique_ptr<Measurement>()> make;  // memory and threads are taken here
};

std::vector<NamedCase> make_cases(const Options& options);

}  // namespace quire::micro
