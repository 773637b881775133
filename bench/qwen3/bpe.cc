#include "bench/qwen3/bpe.h"

#include <queue>
#include <tuple>

#include "bench/qwen3/error.h"

namespace quire::qwen3 {
namespace {

constexpr uint32_t kEnd = UINT32_MAX;
constexpr int32_t kNoToken = -1;

// A token of the word that is being merged, in a doubly linked list.
struct Symbol {
  int32_t token;
  uint32_t previous;
  uint32_t next;
  bool gone = false;
};

// A merge that could be done; stale when its tokens have changed since.
struct Candidate {
  uint32_t rank;
  uint32_t left;  // index of the left symbol
  int32_t left_token;
  int32_t right_token;
  int32_t merged;
  bool operator>(const Candidate& other) const {
    return std::tie(rank, left) > std::tie(other.rank, other.left);
  }
};

uint64_t pair_key(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

}  // namespace

Bpe::Bpe(std::unordered_map<std::string, int32_t> tokens,
         const std::vector<std::pair<std::string, std::string>>& merges, bool ignore_merges,
         const std::string& name)
    : tokens_(std::move(tokens)), ignore_merges_(ignore_merges) {
  for (int byte = 0; byte < 256; ++byte) {
    const auto it = tokens_.find(std::string(1, static_cast<char>(byte)));
    byte_tokens_.push_back(it == tokens_.end() ? kNoToken : it->second);
  }
  merges_.reserve(merges.size());
  for (uint32_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    merges_.emplace(pair_key(token_of(left, name), token_of(right, name)),
                    Merge{rank, token_of(left + right, name)});
  }
}

int32_t Bpe::token_of(const std::string& bytes, const std::string& name) const {
  const auto it = tokens_.find(bytes);
  if (it != tokens_.end()) return it->second;
  throw Error(name + ": the vocabulary lacks a token of " + std::to_string(bytes.size()) +
              " byte(s) beginning with byte " +
              std::to_string(bytes.empty() ? 0 : static_cast<unsigned char>(bytes[0])) +
              " that its merges need");
}

int32_t Bpe::token_of(char byte) const {
  const auto value = static_cast<unsigned char>(byte);
  if (const int32_t token = byte_tokens_[value]; token != kNoToken) return token;
  throw Error("the text holds byte " + std::to_string(value) +
              ", for which the model's vocabulary has no token; take it out");
}

const Bpe::Merge* Bpe::find_merge(int32_t left, int32_t right) const {
  const auto it = merges_.find(pair_key(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

void Bpe::encode(std::string_view word, std::vector<int32_t>& out) const {
  if (ignore_merges_) {
    if (const auto it = tokens_.find(std::string(word)); it != tokens_.end())
      return out.push_back(it->second);
  }
  const auto count = static_cast<uint32_t>(word.size());
  std::vector<Symbol> symbols(count);
  for (uint32_t i = 0; i < count; ++i) {
    symbols[i] = {token_of(word[i]), i == 0 ? kEnd : i - 1, i + 1 == count ? kEnd : i + 1};
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto consider = [&](uint32_t left) {
    if (left == kEnd || symbols[left].next == kEnd) return;
    const int32_t a = symbols[left].token;
    const int32_t b = symbols[symbols[left].next].token;
    if (const Merge* merge = find_merge(a, b)) candidates.push({merge->rank, left, a, b, merge->token});
  };
  for (uint32_t i = 0; i < count; ++i) consider(i);
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Symbol& left = symbols[best.left];
    if (left.gone || left.token != best.left_token || left.next == kEnd) continue;
    Symbol& right = symbols[left.next];
    if (right.token != best.right_token) continue;
    left.token = best.merged;
    right.gone = true;
    left.next = right.next;
    if (right.next != kEnd) symbols[right.next].previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
  for (uint32_t i = 0; i != kEnd && i < count; i = symbols[i].next) out.push_back(symbols[i].token);
}

}  // namespace quire::qwen3
