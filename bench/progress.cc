#include "bench/progress.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>

namespace quire::bench {
namespace {

constexpr int kBarWidth = 30;
constexpr std::chrono::milliseconds kRedraw{100};

}  // namespace

Progress::Progress(double total) : total_(total), shown_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (shown_) erase();
}

void Progress::label(std::string text) {
  const std::lock_guard lock(mutex_);
  label_ = std::move(text);
}

void Progress::add(double work) {
  const std::lock_guard lock(mutex_);
  done_ += work;
  const auto now = Clock::now();
  if (shown_ && now - drawn_ >= kRedraw) draw(now);
}

void Progress::show_above(std::string lines) {
  const std::lock_guard lock(mutex_);
  above_ = std::move(lines);
  if (shown_) draw(Clock::now());
}

void Progress::erase() {
  std::fputs("\r", stderr);
  if (drawn_above_ > 0) std::fprintf(stderr, "\033[%ldA", drawn_above_);
  std::fputs("\033[J", stderr);
  drawn_above_ = 0;
}

void Progress::draw(Clock::time_point now) {
  drawn_ = now;
  erase();
  std::fputs((above_ + bar(now)).c_str(), stderr);
  drawn_above_ = std::count(above_.begin(), above_.end(), '\n');
}

std::string Progress::bar(Clock::time_point now) const {
  const double share = std::clamp(done_ / total_, 0.0, 1.0);
  const double spent = std::chrono::duration<double>(now - start_).count();
  const auto left = static_cast<long>(share > 0 ? spent * (1 - share) / share : 0);
  const std::string marks(static_cast<size_t>(share * kBarWidth), '#');
  std::array<char, 80> out{};
  std::snprintf(out.data(), out.size(), "[%-*s] %3.0f%%  %ld:%02ld left  ", kBarWidth, marks.c_str(),
                100 * share, left / 60, left % 60);
  return out.data() + label_;
}

}  // namespace quire::bench
