// Text for an errno. Thread safety: pure function.
#pragma once

#include <string>
#include <system_error>

namespace quire {

inline std::string os_error_text(int os_error) { return std::generic_category().message(os_error); }

}  // namespace quire
