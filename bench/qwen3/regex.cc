#define PCRE2_CODE_UNIT_WIDTH 8
#include "bench/qwen3/regex.h"

#include <pcre2.h>

#include <array>

#include "bench/qwen3/error.h"

namespace quire::qwen3 {

struct RegexCode {
  explicit RegexCode(pcre2_code* c) : code(c) {}
  RegexCode(const RegexCode&) = delete;
  RegexCode& operator=(const RegexCode&) = delete;
  ~RegexCode() { pcre2_code_free(code); }
  pcre2_code* code;
};

namespace {

constexpr size_t kJitStackBytes = size_t{1} << 20;

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// What one scan over a text needs.
struct Matcher {
  explicit Matcher(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr), pcre2_match_data_free),
        context(pcre2_match_context_create(nullptr), pcre2_match_context_free),
        stack(pcre2_jit_stack_create(kJitStackBytes / 32, kJitStackBytes, nullptr), pcre2_jit_stack_free) {
    if (data == nullptr || context == nullptr) throw std::bad_alloc();
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }
  std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data;
  std::unique_ptr<pcre2_match_context, void (*)(pcre2_match_context*)> context;
  std::unique_ptr<pcre2_jit_stack, void (*)(pcre2_jit_stack*)> stack;
};

}  // namespace

Regex::Regex(const std::string& pattern, const std::string& name) {
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* const code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                         PCRE2_UTF | PCRE2_UCP, &error, &at, nullptr);
  if (code == nullptr) {
    throw Error(name + ": the pattern does not compile at character " + std::to_string(at) + ": " +
                message_of(error));
  }
  code_ = std::make_shared<const RegexCode>(code);
  // Where the machine allows no new code at run time the same matches are found, more slowly.
  (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
}

void Regex::split(std::string_view text, const std::function<void(std::string_view)>& piece) const {
  const Matcher matcher(code_->code);
  const auto* const subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const PCRE2_SIZE* const range = pcre2_get_ovector_pointer(matcher.data.get());
  size_t done = 0;
  while (done < text.size()) {
    // An empty match would not move the scan on.
    constexpr uint32_t kOptions = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
    const int found = pcre2_match(code_->code, subject, text.size(), done, kOptions, matcher.data.get(),
                                  matcher.context.get());
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) throw Error("the text cannot be split into words: " + message_of(found));
    if (range[0] > done) piece(text.substr(done, range[0] - done));
    piece(text.substr(range[0], range[1] - range[0]));
    done = range[1];
  }
  if (done < text.size()) piece(text.substr(done));
}

}  // namespace quire::qwen3
