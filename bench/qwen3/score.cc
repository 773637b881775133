#include "bench/qwen3/score.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <string>
#include <system_error>

#include "bench/qwen3/error.h"
#include "bench/qwen3/ops.h"

namespace quire::qwen3 {
namespace {

// log of the sum of exp.
double log_sum(std::span<const float> logits) {
  const double high = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - high);
  return high + std::log(sum);
}

int open_nameless(const std::filesystem::path& folder) {
  const int fd = open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0) return fd;
  // Not every file system has O_TMPFILE.
  std::string name = (folder / "quire-logits-XXXXXX").string();
  const int named = mkostemp(name.data(), O_CLOEXEC);
  if (named < 0) {
    throw Error("cannot write to " + folder.string() + ": " + std::generic_category().message(errno) +
                "; set TMPDIR to a folder that can be written");
  }
  unlink(name.c_str());
  return named;
}

}  // namespace

void Perplexity::add(std::span<const float> logits, int32_t token) {
  add(negative_log_likelihood(logits, token));
}

void Perplexity::add(double negative_log_likelihood) {
  sum_ += negative_log_likelihood;
  ++tokens_;
}

double Perplexity::value() const { return std::exp(sum_ / static_cast<double>(tokens_)); }

TokenDivergence divergence(std::span<const float> reference, std::span<const float> logits) {
  const double reference_sum = log_sum(reference);
  const double sum = log_sum(logits);
  double value = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double log_p = reference[i] - reference_sum;
    value += std::exp(log_p) * (log_p - (logits[i] - sum));
  }
  // Rounding may leave equal rows below zero.
  return {std::max(0.0, value), argmax(reference) == argmax(logits)};
}

void Divergence::add(std::span<const float> reference, std::span<const float> logits) {
  add(divergence(reference, logits));
}

void Divergence::add(const TokenDivergence& token) {
  values_.push_back(token.value);
  same_ += token.same_top1 ? 1 : 0;
}

double Divergence::mean() const {
  double sum = 0;
  for (const double value : values_) sum += value;
  return sum / static_cast<double>(values_.size());
}

double Divergence::p999() const {
  std::vector<double> sorted = values_;
  std::sort(sorted.begin(), sorted.end());
  const auto rank = static_cast<size_t>(std::ceil(0.999 * static_cast<double>(sorted.size())));
  return sorted[rank - 1];
}

double Divergence::same_top1() const {
  return static_cast<double>(same_) / static_cast<double>(values_.size());
}

LogitsFile::LogitsFile(const std::filesystem::path& folder, size_t vocab)
    : fd_(open_nameless(folder)), row_(vocab) {}

LogitsFile::~LogitsFile() { close(fd_); }

void LogitsFile::append(std::span<const float> row) {
  const auto offset = static_cast<off_t>(rows_ * row.size_bytes());
  if (pwrite(fd_, row.data(), row.size_bytes(), offset) != static_cast<ssize_t>(row.size_bytes())) {
    throw Error("cannot keep the reference's logits: " + std::generic_category().message(errno) +
                "; set TMPDIR to a folder with more room");
  }
  ++rows_;
}

std::span<const float> LogitsFile::row(uint64_t index) {
  read(index, row_);
  return row_;
}

void LogitsFile::read(uint64_t first, std::span<float> rows) const {
  auto bytes = std::as_writable_bytes(rows);
  for (uint64_t offset = first * row_.size() * sizeof(float); !bytes.empty();) {
    const ssize_t n = pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n <= 0) {
      throw Error("the reference's logits cannot be read back: " + std::generic_category().message(errno));
    }
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
}

}  // namespace quire::qwen3
