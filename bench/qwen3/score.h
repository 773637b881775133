// How good logits are: perplexity over a text, and divergence from the logits of an unquantized run.
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace quire::qwen3 {

// Perplexity of a text: add the logits before each token and the token.
class Perplexity {
 public:
  void add(std::span<const float> logits, int32_t token);
  void add(double negative_log_likelihood);
  uint64_t tokens() const { return tokens_; }
  double value() const;  // exp of the mean negative log likelihood

 private:
  double sum_ = 0;
  uint64_t tokens_ = 0;
};

// Of one token's distribution from another, natural logarithm.
struct TokenDivergence {
  double value = 0;
  bool same_top1 = true;
};
TokenDivergence divergence(std::span<const float> reference, std::span<const float> logits);

// The same over many tokens.
class Divergence {
 public:
  void add(std::span<const float> reference, std::span<const float> logits);
  void add(const TokenDivergence& token);
  double mean() const;
  double p999() const;       // the 99.9 % quantile: the value of rank ceil(0.999 n)
  double same_top1() const;  // share of tokens whose most likely successor is the same

 private:
  std::vector<double> values_;
  uint64_t same_ = 0;
};

// Rows of logits kept in a file without a name, so that they do not count as memory of a run.
class LogitsFile {
 public:
  // folder: where the file lies; it vanishes with the process.
  LogitsFile(const std::filesystem::path& folder, size_t vocab);
  LogitsFile(const LogitsFile&) = delete;
  LogitsFile& operator=(const LogitsFile&) = delete;
  ~LogitsFile();

  void append(std::span<const float> row);
  // Valid until the next call.
  std::span<const float> row(uint64_t index);
  // Whole rows from `first` on.
  void read(uint64_t first, std::span<float> rows) const;

 private:
  int fd_;
  uint64_t rows_ = 0;
  std::vector<float> row_;
};

}  // namespace quire::qwen3
