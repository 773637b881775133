// A progress bar with an estimate of the time left, on stderr when that is a terminal.
// Thread safety: any thread, at any time.
#pragma once

#include <chrono>
#include <mutex>
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
  void label(std::string text);
  void add(double work);
  // Whole lines, each ended, that stand above the bar from now on; none when empty.
  void show_above(std::string lines);

 private:
  using Clock = std::chrono::steady_clock;
  void draw(Clock::time_point now);
  std::string bar(Clock::time_point now) const;
  void erase();

  std::mutex mutex_;  // guards all below
  double total_;
  double done_ = 0;
  std::string label_;
  std::string above_;
  long drawn_above_ = 0;  // lines above the cursor's that are ours
  bool shown_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point drawn_{};
};

}  // namespace quire::bench
