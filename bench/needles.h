// Needles: pass keys told somewhere in a long text and asked for at its end.
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/qwen3/session.h"
#include "bench/qwen3/tokenizer.h"

namespace quire::bench {

struct Needle {
  std::string name;
  std::string digits;
};

// A text and the needles in it.
struct NeedleText {
  std::vector<int32_t> tokens;
  std::vector<Needle> needles;
};

// The last `length` tokens of `text`, with `count` needles told on lines of their own at even depths, none of
// them among the last `untouched` tokens; tokens at the front make room. Names are capitalised words of the
// text. Throws qwen3::Error when the text is too short.
NeedleText plant_needles(const qwen3::Tokenizer& tokenizer, std::span<const int32_t> text, uint64_t length,
                         uint64_t untouched, uint32_t count, uint64_t seed);

// Tokens that asking takes at most, beyond the text.
inline constexpr uint64_t kQuestionTokens = 64;

// Asks at the end of a line; true when every digit of the greedy answer is right. `session` goes on from
// there: give a fork.
bool ask(qwen3::Session& session, const qwen3::Tokenizer& tokenizer, const Needle& needle);

}  // namespace quire::bench
