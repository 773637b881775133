// What every device promises, as tests: included by one file per kind of device, which instantiates
// DeviceContract.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kvcache/device.h"

namespace quire {

template <typename T>
std::unique_ptr<T> expect_created(Result<std::unique_ptr<T>> result) {
  EXPECT_TRUE(result.ok()) << result.status().message();
  return std::move(*result);
}

inline void expect_ok(const Status& status) { EXPECT_TRUE(status.ok()) << status.message(); }

struct Implementation {
  std::string name;
  std::unique_ptr<Device> (*create)();
};

inline void PrintTo(const Implementation& implementation, std::ostream* out) { *out << implementation.name; }

// What every device promises.
class DeviceContract : public testing::TestWithParam<Implementation> {
 protected:
  std::unique_ptr<Stream> stream() { return expect_created(device_->create_stream()); }
  std::unique_ptr<Event> event() { return expect_created(device_->create_event()); }

  const std::unique_ptr<Device> device_ = GetParam().create();
};

TEST_P(DeviceContract, BuffersAreZeroedAlignedAndMovable) {
  Result<DeviceBuffer> made = device_->allocate(10000);
  ASSERT_TRUE(made.ok()) << made.status().message();
  DeviceBuffer buffer = std::move(*made);
  EXPECT_EQ(buffer.size(), 10000U);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0U);

  std::vector<uint8_t> host(10000, 1);
  const std::unique_ptr<Stream> stream = this->stream();
  expect_ok(stream->copy(host.data(), buffer.data(), host.size()));
  expect_ok(stream->synchronize());
  EXPECT_TRUE(std::all_of(host.begin(), host.end(), [](uint8_t b) { return b == 0; }));

  DeviceBuffer moved = std::move(buffer);
  EXPECT_NE(moved.data(), nullptr);
  moved.reset();
  EXPECT_EQ(moved.data(), nullptr);
}

TEST_P(DeviceContract, AllocationCanFail) {
  const Result<DeviceBuffer> huge = device_->allocate(SIZE_MAX - 1);
  EXPECT_EQ(huge.status().code(), StatusCode::kOverBudget);
  const Result<DeviceBuffer> empty = device_->allocate(0);
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(empty->data(), nullptr);
}

TEST_P(DeviceContract, WorkRunsInOrder) {
  const std::unique_ptr<Stream> stream = this->stream();
  std::vector<int> order;
  for (int i = 0; i < 1000; ++i) expect_ok(stream->launch([&order, i] { order.push_back(i); }));
  expect_ok(stream->synchronize());
  EXPECT_TRUE(stream->idle());
  ASSERT_EQ(order.size(), 1000U);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST_P(DeviceContract, CopiesTakePartInTheOrder) {
  const std::unique_ptr<Stream> stream = this->stream();
  int a = 1;
  int b = 0;
  int c = 0;
  expect_ok(stream->copy(&b, &a, sizeof a));
  expect_ok(stream->launch([&b] { b *= 10; }));
  expect_ok(stream->copy(&c, &b, sizeof b));
  expect_ok(stream->copy(nullptr, nullptr, 0));
  expect_ok(stream->synchronize());
  EXPECT_EQ(c, 10);
}

TEST_P(DeviceContract, EventsOrderStreams) {
  const std::unique_ptr<Stream> producer = stream();
  const std::unique_ptr<Stream> consumer = stream();
  const std::unique_ptr<Event> produced = event();
  const std::unique_ptr<Event> consumed = event();
  int value = 0;
  for (int round = 1; round <= 200; ++round) {
    int seen = 0;
    expect_ok(producer->wait(*consumed));
    expect_ok(producer->launch([&value, round] { value = round; }));
    expect_ok(producer->record(*produced));
    expect_ok(consumer->wait(*produced));
    expect_ok(consumer->copy(&seen, &value, sizeof value));
    expect_ok(consumer->record(*consumed));
    if (round % 50 == 0) expect_ok(producer->synchronize());
    expect_ok(consumed->synchronize());
    expect_ok(consumed->query());
    ASSERT_EQ(seen, round);
  }
}

// Each stream waits for the previous one, all the way round: many waits in flight, two threads that look.
TEST_P(DeviceContract, RingsOfWaitsDoNotDeadlock) {
  constexpr int kStreams = 4;
  constexpr int kRounds = 100;
  std::vector<std::unique_ptr<Stream>> streams;
  std::vector<std::unique_ptr<Event>> events;
  std::vector<int> order;
  for (int i = 0; i < kStreams; ++i) {
    streams.push_back(stream());
    events.push_back(event());
  }
  for (int i = 0; i < kStreams * kRounds; ++i) {
    Stream& at = *streams[static_cast<size_t>(i % kStreams)];
    expect_ok(at.wait(*events[static_cast<size_t>((i + kStreams - 1) % kStreams)]));
    expect_ok(at.launch([&order, i] { order.push_back(i); }));
    expect_ok(at.record(*events[static_cast<size_t>(i % kStreams)]));
  }
  std::thread backwards([&] {
    for (int i = kStreams; i-- > 0;) expect_ok(streams[static_cast<size_t>(i)]->synchronize());
  });
  for (const auto& event : events) expect_ok(event->synchronize());
  backwards.join();
  ASSERT_EQ(order.size(), size_t{kStreams * kRounds});
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST_P(DeviceContract, NeverTwoThreadsInOneStream) {
  const std::unique_ptr<Stream> stream = this->stream();
  std::atomic<int> inside{0};
  std::atomic<bool> overlapped{false};
  int unguarded = 0;  // a data race if two pieces ran at once
  std::atomic<bool> launched{false};
  std::vector<std::thread> synchronizers;
  for (int t = 0; t < 3; ++t) {
    synchronizers.emplace_back([&] {
      while (!launched) expect_ok(stream->synchronize());
      expect_ok(stream->synchronize());
    });
  }
  for (int i = 0; i < 2000; ++i) {
    expect_ok(stream->launch([&] {
      if (inside.fetch_add(1) != 0) overlapped = true;
      ++unguarded;
      inside.fetch_sub(1);
    }));
  }
  launched = true;
  for (std::thread& synchronizer : synchronizers) synchronizer.join();
  EXPECT_FALSE(overlapped);
  EXPECT_EQ(unguarded, 2000);
}

TEST_P(DeviceContract, AnEventThatWasNeverRecordedIsOver) {
  const std::unique_ptr<Stream> stream = this->stream();
  const std::unique_ptr<Event> event = this->event();
  bool ran = false;
  expect_ok(event->query());
  expect_ok(event->synchronize());
  expect_ok(stream->wait(*event));
  expect_ok(stream->launch([&ran] { ran = true; }));
  expect_ok(stream->synchronize());
  EXPECT_TRUE(ran);
}

TEST_P(DeviceContract, WaitingForAnEventOfTheSameStreamChangesNothing) {
  const std::unique_ptr<Stream> stream = this->stream();
  const std::unique_ptr<Event> event = this->event();
  int steps = 0;
  expect_ok(stream->launch([&steps] { ++steps; }));
  expect_ok(stream->record(*event));
  expect_ok(stream->wait(*event));
  expect_ok(stream->launch([&steps] { ++steps; }));
  expect_ok(stream->synchronize());
  EXPECT_EQ(steps, 2);
}

TEST_P(DeviceContract, DestructionFinishesTheWork) {
  int done = 0;
  bool followed = false;
  std::unique_ptr<Stream> follower = stream();
  {
    const std::unique_ptr<Stream> stream = this->stream();
    const std::unique_ptr<Event> event = this->event();
    for (int i = 0; i < 100; ++i) expect_ok(stream->launch([&done] { ++done; }));
    expect_ok(stream->record(*event));
    expect_ok(follower->wait(*event));  // outlives both the event and the stream it was recorded in
    expect_ok(follower->launch([&] { followed = done == 100; }));
  }
  EXPECT_EQ(done, 100);
  follower.reset();
  EXPECT_TRUE(followed);
}

TEST_P(DeviceContract, RefusesWhatCannotRun) {
  const std::unique_ptr<Stream> stream = this->stream();
  int value = 0;
  EXPECT_EQ(stream->launch({}).code(), StatusCode::kInvalid);
  EXPECT_EQ(stream->copy(&value, nullptr, sizeof value).code(), StatusCode::kInvalid);
  EXPECT_EQ(stream->copy(nullptr, &value, sizeof value).code(), StatusCode::kInvalid);

  class ForeignEvent final : public Event {
    Status query() override { return {}; }
    Status synchronize() override { return {}; }
  } foreign;
  EXPECT_EQ(stream->record(foreign).code(), StatusCode::kInvalid);
  EXPECT_EQ(stream->wait(foreign).code(), StatusCode::kInvalid);
}

}  // namespace quire
