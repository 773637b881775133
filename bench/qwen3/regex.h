// A PCRE2 pattern over UTF-8 text, with Unicode properties.
// Thread safety: const calls from anywhere.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace quire::qwen3 {

class Regex {
 public:
  // `name` stands for the pattern's origin in messages. Throws Error when it does not compile.
  Regex(const std::string& pattern, const std::string& name);

  // Calls piece(part) for every match and every stretch between matches, in order; the parts make up `text`,
  // which must be valid UTF-8.
  void split(std::string_view text, const std::function<void(std::string_view)>& piece) const;

 private:
  std::shared_ptr<const struct RegexCode> code_;
};

}  // namespace quire::qwen3
