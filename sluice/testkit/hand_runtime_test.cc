#include "sluice/testkit/hand_runtime.h"

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

namespace sluice::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(HandRuntime, ClockMovesOnlyWhenTurned) {
  HandRuntime runtime(Time(seconds(100)));
  EXPECT_EQ(runtime.clock().now(), Time(seconds(100)));
  runtime.advance(milliseconds(1'500));
  EXPECT_EQ(runtime.clock().now(), Time(milliseconds(101'500)));
}

TEST(HandRuntime, AWaiterWakesOnlyWhenItsDeadlineHasCome) {
  HandRuntime runtime;
  const Time deadline = runtime.clock().now() + seconds(2);
  std::atomic<bool> woken = false;
  const auto thread = runtime.spawn("waiter", [&] {
    std::mutex mutex;
    const auto condition = runtime.condition();
    std::unique_lock lock(mutex);
    while (condition->wait_until(lock, deadline)) EXPECT_LT(runtime.clock().now(), deadline);
    EXPECT_GE(runtime.clock().now(), deadline);
    woken = true;
  });
  runtime.advance(seconds(1));
  runtime.advance(milliseconds(999));
  EXPECT_FALSE(woken);
  runtime.advance(milliseconds(1));
  thread->join();
  EXPECT_TRUE(woken);
}

TEST(HandRuntime, APassedDeadlineDoesNotWait) {
  HandRuntime runtime;
  std::mutex mutex;
  const auto condition = runtime.condition();
  std::unique_lock lock(mutex);
  EXPECT_FALSE(condition->wait_until(lock, runtime.clock().now()));
  EXPECT_TRUE(lock.owns_lock());
}

TEST(HandRuntime, ManyWaitersEachWakeAtTheirDeadline) {
  HandRuntime runtime;
  const Time start = runtime.clock().now();
  std::vector<std::unique_ptr<Thread>> threads;
  std::mutex mutex;
  const auto shared = runtime.condition();
  std::atomic<int> ended = 0;
  for (int i = 0; i < 40; ++i) {
    threads.push_back(runtime.spawn("waiter", [&, i] {
      const Time deadline = start + milliseconds(i + 1);
      std::unique_lock lock(mutex);
      while (shared->wait_until(lock, deadline)) continue;
      EXPECT_GE(runtime.clock().now(), deadline);
      ++ended;
    }));
  }
  // Each is joined when its time has come, while the later ones still wait.
  for (int i = 0; i < 40; ++i) {
    EXPECT_LE(ended, i);
    runtime.advance(milliseconds(1));
    threads[static_cast<std::size_t>(i)]->join();
  }
}

TEST(HandRuntime, AnAdvanceIsNeverLostWhileAWaiterBegins) {
  HandRuntime runtime;
  std::mutex mutex;
  const auto condition = runtime.condition();
  for (int round = 0; round < 2'000; ++round) {
    const Time deadline = runtime.clock().now() + seconds(1);
    const auto thread = runtime.spawn("waiter", [&] {
      std::unique_lock lock(mutex);
      while (condition->wait_until(lock, deadline)) continue;
    });
    runtime.advance(seconds(1));
    thread->join();
  }
}

TEST(HandRuntime, NotificationsAreNeverLost) {
  HandRuntime runtime;
  std::mutex mutex;
  const auto condition = runtime.condition();
  int turn = 0;
  const auto play = [&](int me) {
    std::unique_lock lock(mutex);
    for (int i = 0; i < 2'000; ++i) {
      while (turn % 2 != me) condition->wait(lock);
      ++turn;
      condition->notify_one();
    }
  };
  const auto other = runtime.spawn("other", [&] { play(1); });
  play(0);
  other->join();
  EXPECT_EQ(turn, 4'000);
}

TEST(HandRuntime, WaitForEndsWithTheClock) {
  HandRuntime runtime;
  std::atomic<bool> ended = false;
  const auto thread = runtime.spawn("sleeper", [&] {
    runtime.wait_for(seconds(60));
    ended = true;
  });
  EXPECT_FALSE(ended);
  // The sleeper may begin before or after the first turn of the clock.
  while (!ended) runtime.advance(seconds(60));
  thread->join();
}

TEST(HandRuntime, ReadsAndAcceptsEndByTheHandTurnedClock) {
  HandRuntime runtime;
  Transport& transport = runtime.transport();
  const auto listener = transport.listen(Address::tcp("127.0.0.1", 0));
  EXPECT_EQ(listener->accept(runtime.clock().now()), nullptr);
  const auto near_end = transport.connect(listener->address(), runtime.clock().now() + seconds(10));
  const auto far_end = listener->accept(Time::max());
  ASSERT_NE(far_end, nullptr);
  near_end->write(std::string("hello"), runtime.clock().now() + seconds(10));
  char buffer[10];
  EXPECT_EQ(far_end->read(buffer, Time::max()), 5U);
  std::optional<std::size_t> count = 1;
  const Time deadline = runtime.clock().now() + seconds(5);
  const auto thread = runtime.spawn("reader", [&] { count = far_end->read(buffer, deadline); });
  runtime.advance(seconds(5));
  thread->join();
  EXPECT_EQ(count, std::nullopt);
  const auto acceptor = runtime.spawn("acceptor", [&] { EXPECT_EQ(listener->accept(Time::max()), nullptr); });
  listener->close();
  acceptor->join();
}

}  // namespace
}  // namespace sluice::testing
