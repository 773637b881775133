// The manifest of golden pages as JSON: one object per page. Thread safety: pure functions.
#pragma once

#include <nlohmann/json.hpp>

#include "tests/golden/pages.h"

namespace quire::golden {

// README.md lists the keys.
nlohmann::ordered_json manifest_entry(const PageSpec& spec, const Page& page);

}  // namespace quire::golden
