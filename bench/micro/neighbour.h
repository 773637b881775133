// Decode attention through the store's thread pool, alone and beside a program that never sleeps on one of
// the cores, in turns. The floor is the time alone, so that share = quiet / loaded: with two threads on two
// cores the neighbour takes a quarter of the machine, and a pool that hands out small items loses little
// more. Thread safety: one thread measures.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

#include "bench/micro/measurement.h"
#include "bench/micro/pooled_attention.h"

namespace quire::micro {

// A loop pinned to one core that runs while it is told to.
class BusyLoop {
 public:
  BusyLoop();
  ~BusyLoop();
  BusyLoop(const BusyLoop&) = delete;
  BusyLoop& operator=(const BusyLoop&) = delete;

  void start();
  void stop();

 private:
  enum State : uint32_t { kIdle, kBusy, kQuit };
  void run();

  std::atomic<uint32_t> state_{kIdle};
  std::thread thread_;
};

class NeighbourMeasurement final : public Measurement {
 public:
  NeighbourMeasurement(const SharedHeads& heads, const Kernels& kernels, uint32_t group, uint32_t threads);

  double round() override;
  Row row() const override;

 private:
  double time_steps();

  PooledAttention attention_;
  BusyLoop neighbour_;
  Row row_;
  std::vector<double> quiet_;
  std::vector<double> loaded_;
};

}  // namespace quire::micro
