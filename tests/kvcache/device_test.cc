#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kvcache/device_cpu.h"
#include "tests/kvcache/device_contract.h"

namespace quire {
namespace {

const Implementation kImplementations[] = {
    {"Cpu", [] { return create_cpu_device(); }},
    {"LazyCpu", [] { return create_cpu_device({.lazy = true}); }},
};

INSTANTIATE_TEST_SUITE_P(All, DeviceContract, testing::ValuesIn(kImplementations),
                         [](const auto& test) { return test.param.name; });

TEST(CpuDevice, StreamsRunAsynchronously) {
  const std::unique_ptr<Device> device = create_cpu_device();
  EXPECT_EQ(device->name(), "cpu");
  const std::unique_ptr<Stream> stream = expect_created(device->create_stream());
  const std::unique_ptr<Event> event = expect_created(device->create_event());
  std::promise<void> gate;
  std::promise<void> started;
  expect_ok(stream->launch([&] {
    started.set_value();
    gate.get_future().wait();
  }));
  expect_ok(stream->record(*event));
  started.get_future().wait();  // without any synchronize
  EXPECT_FALSE(stream->idle());
  EXPECT_EQ(event->query().code(), StatusCode::kNotReady);
  gate.set_value();
  expect_ok(event->synchronize());
  expect_ok(event->query());
  expect_ok(stream->synchronize());
  EXPECT_TRUE(stream->idle());
}

TEST(CpuDevice, TheWorkerGoesOnWhereASynchronizingThreadStops) {
  const std::unique_ptr<Device> device = create_cpu_device();
  const std::unique_ptr<Stream> stream = expect_created(device->create_stream());
  const std::unique_ptr<Event> event = expect_created(device->create_event());
  for (int round = 0; round < 20; ++round) {
    std::promise<void> last_has_run;
    // Long enough for the worker to wake up meanwhile and find that somebody else is at it.
    expect_ok(stream->launch([] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }));
    expect_ok(stream->record(*event));
    expect_ok(stream->launch([&] { last_has_run.set_value(); }));
    expect_ok(event->synchronize());
    last_has_run.get_future().wait();  // nobody synchronizes with it
    expect_ok(stream->synchronize());
  }
}

class LazyDevice : public testing::Test {
 protected:
  const std::unique_ptr<Device> device_ = create_cpu_device({.lazy = true});
  const std::unique_ptr<Stream> producer_ = expect_created(device_->create_stream());
  const std::unique_ptr<Stream> consumer_ = expect_created(device_->create_stream());
  const std::unique_ptr<Event> produced_ = expect_created(device_->create_event());
  int value_ = 1;
  int seen_ = 0;
};

TEST_F(LazyDevice, AForgottenEventYieldsStaleData) {
  expect_ok(producer_->launch([this] { value_ = 2; }));
  expect_ok(producer_->record(*produced_));
  expect_ok(consumer_->copy(&seen_, &value_, sizeof value_));
  expect_ok(consumer_->synchronize());
  EXPECT_EQ(seen_, 1);
}

TEST_F(LazyDevice, AnEventBringsFreshData) {
  expect_ok(producer_->launch([this] { value_ = 2; }));
  expect_ok(producer_->record(*produced_));
  expect_ok(consumer_->wait(*produced_));
  expect_ok(consumer_->copy(&seen_, &value_, sizeof value_));
  expect_ok(consumer_->synchronize());
  EXPECT_EQ(seen_, 2);
}

TEST_F(LazyDevice, RunsNoFurtherThanTheEvent) {
  expect_ok(producer_->launch([this] { value_ = 2; }));
  expect_ok(producer_->record(*produced_));
  expect_ok(producer_->launch([this] { value_ = 3; }));
  EXPECT_EQ(produced_->query().code(), StatusCode::kNotReady);
  expect_ok(produced_->synchronize());
  EXPECT_EQ(value_, 2);
  EXPECT_FALSE(producer_->idle());
  expect_ok(producer_->synchronize());
  EXPECT_EQ(value_, 3);
}

TEST_F(LazyDevice, AWaitHoldsTheRecordItWasGiven) {
  expect_ok(producer_->launch([this] { value_ = 2; }));
  expect_ok(producer_->record(*produced_));
  expect_ok(consumer_->wait(*produced_));
  expect_ok(producer_->launch([this] { value_ = 3; }));
  expect_ok(producer_->record(*produced_));
  expect_ok(consumer_->copy(&seen_, &value_, sizeof value_));
  expect_ok(consumer_->synchronize());
  EXPECT_EQ(seen_, 2);
}

TEST_F(LazyDevice, TheSynchronizingThreadRunsTheWork) {
  std::thread::id ran_on;
  expect_ok(producer_->launch([&ran_on] { ran_on = std::this_thread::get_id(); }));
  std::this_thread::yield();
  EXPECT_EQ(ran_on, std::thread::id());
  expect_ok(producer_->synchronize());
  EXPECT_EQ(ran_on, std::this_thread::get_id());
}

}  // namespace
}  // namespace quire
