// A progress bar with an estimate of the time left, on stderr when that is a terminal.
// Thread safety: one thread.
#pragma once

#include <chrono>
#include <string>

namespace quire::bench {

class Progress {
 public:
  // total: of whatever unit the work is counted in, > 0.
  explicit Progress(double total);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();

  // What is being done, shown beside the bar.
  void label(std::string text) { label_ = std::move(text); }
  void add(double work);

 private:
  using Clock = std::chrono::steady_clock;
  void draw(Clock::time_point now);

  double total_;
  double done_ = 0;
  std::string label_;
  bool shown_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point drawn_{};
};

}  // namespace quire::bench
