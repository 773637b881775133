#include "bench/needles.h"

#include <algorithm>
#include <cctype>
#include <set>

#include "bench/qwen3/error.h"
#include "bench/qwen3/random.h"
#include "bench/qwen3/reading.h"

namespace quire::bench {
namespace {

constexpr size_t kDigits = 5;

std::string line_of(const Needle& needle) {
  return "The pass key of " + needle.name + " is " + needle.digits + ". Remember it.\n";
}

// Words of 4 to 10 letters that stand after a blank and begin with a capital, each once.
std::vector<std::string> capitalised_words(const std::string& text) {
  std::set<std::string> words;
  const auto is_lower = [](char c) { return std::islower(static_cast<unsigned char>(c)) != 0; };
  for (size_t at = text.find(' '); at != std::string::npos; at = text.find(' ', at + 1)) {
    const auto begin = text.begin() + static_cast<int64_t>(at) + 1;
    if (begin == text.end() || std::isupper(static_cast<unsigned char>(*begin)) == 0) continue;
    const auto end = std::find_if_not(begin + 1, text.end(), is_lower);
    if (end - begin >= 4 && end - begin <= 10) words.emplace(begin, end);
  }
  return {words.begin(), words.end()};
}

std::vector<Needle> make_needles(const std::string& text, uint32_t count, uint64_t seed) {
  std::vector<std::string> names = capitalised_words(text);
  if (names.size() < count) {
    throw qwen3::Error("the text has " + std::to_string(names.size()) + " names for " +
                       std::to_string(count) + " needles; lower --needles");
  }
  qwen3::Random random(seed);
  std::vector<Needle> needles;
  for (uint32_t i = 0; i < count; ++i) {
    std::swap(names[i], names[i + random.next() % (names.size() - i)]);
    Needle& needle = needles.emplace_back(Needle{names[i], ""});
    while (needle.digits.size() < kDigits) needle.digits += static_cast<char>('0' + random.next() % 10);
  }
  return needles;
}

// The first position at or after `at` where a line begins; `end` when there is none before it.
size_t next_line(const qwen3::Tokenizer& tokenizer, std::span<const int32_t> tokens, size_t at, size_t end) {
  while (at > 0 && at < end && !tokenizer.bytes_of(tokens[at - 1]).ends_with('\n')) ++at;
  return std::min(at, end);
}

}  // namespace

NeedleText plant_needles(const qwen3::Tokenizer& tokenizer, std::span<const int32_t> text, uint64_t length,
                         uint64_t untouched, uint32_t count, uint64_t seed) {
  NeedleText out;
  if (count > 0) out.needles = make_needles(tokenizer.decode(text), count, seed);
  std::vector<std::vector<int32_t>> lines;
  uint64_t planted = 0;
  for (const Needle& needle : out.needles) {
    planted += lines.emplace_back(tokenizer.encode(line_of(needle))).size();
  }
  if (planted + untouched > length || length - planted > text.size()) {
    throw qwen3::Error("a context of " + std::to_string(length) + " tokens does not fit: the text has " +
                       std::to_string(text.size()) + " and the needles need " + std::to_string(planted) +
                       "; change --contexts or lower --needles");
  }
  const auto body = text.last(length - planted);
  const size_t end = body.size() - untouched;
  size_t done = 0;
  out.tokens.reserve(length);
  for (uint32_t i = 0; i < count; ++i) {
    const size_t depth = (2 * i + 1) * end / (2 * count);
    const size_t at = next_line(tokenizer, body, std::max(done, depth), end);
    out.tokens.insert(out.tokens.end(), body.begin() + static_cast<int64_t>(done),
                      body.begin() + static_cast<int64_t>(at));
    out.tokens.insert(out.tokens.end(), lines[i].begin(), lines[i].end());
    done = at;
  }
  out.tokens.insert(out.tokens.end(), body.begin() + static_cast<int64_t>(done), body.end());
  return out;
}

bool ask(qwen3::Session& session, const qwen3::Tokenizer& tokenizer, const Needle& needle) {
  const std::vector<int32_t> question = tokenizer.encode("The pass key of " + needle.name + " is");
  qwen3::Sampler greedy({});
  std::string answer;
  const std::string expected = " " + needle.digits;
  qwen3::generate(session, question, greedy, 2 * kDigits, [&](int32_t token) {
    answer += tokenizer.bytes_of(token);
    return answer.size() < expected.size();
  });
  return answer.starts_with(expected);
}

}  // namespace quire::bench
