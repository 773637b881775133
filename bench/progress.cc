#include "bench/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace quire::bench {
namespace {

constexpr int kBarWidth = 30;
constexpr std::chrono::milliseconds kRedraw{100};

}  // namespace

Progress::Progress(double total) : total_(total), shown_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (shown_) std::fprintf(stderr, "\r\033[K");
}

void Progress::add(double work) {
  done_ += work;
  const auto now = Clock::now();
  if (!shown_ || now - drawn_ < kRedraw) return;
  drawn_ = now;
  draw(now);
}

void Progress::draw(Clock::time_point now) {
  const double share = std::clamp(done_ / total_, 0.0, 1.0);
  const double spent = std::chrono::duration<double>(now - start_).count();
  const auto left = static_cast<long>(share > 0 ? spent * (1 - share) / share : 0);
  const std::string bar(static_cast<size_t>(share * kBarWidth), '#');
  std::fprintf(stderr, "\r[%-*s] %3.0f%%  %ld:%02ld left  %s\033[K", kBarWidth, bar.c_str(), 100 * share,
               left / 60, left % 60, label_.c_str());
}

}  // namespace quire::bench
