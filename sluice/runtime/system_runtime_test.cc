#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/runtime.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;

// Counts what tasks did and lets the test wait for a number of it.
class Count {
 public:
  void add() {
    const std::lock_guard lock(mutex_);
    ++value_;
    changed_->notify_all();
  }
  void wait_for(int value) {
    std::unique_lock lock(mutex_);
    while (value_ < value) changed_->wait(lock);
  }
  int value() {
    const std::lock_guard lock(mutex_);
    return value_;
  }

 private:
  std::mutex mutex_;
  std::unique_ptr<Condition> changed_ = system_runtime().condition();
  int value_ = 0;
};

TEST(SystemClock, StartsAtTheWallClock) {
  const Time wall = std::chrono::system_clock::now();
  // An hour of room: the wall clock may have been set since the process started.
  EXPECT_LT(std::chrono::abs(system_runtime().clock().now() - wall), 1h);
}

TEST(SystemClock, NeverGoesBack) {
  Clock& clock = system_runtime().clock();
  Time last = clock.now();
  for (int i = 0; i < 1000; ++i) {
    const Time now = clock.now();
    ASSERT_LE(last, now);
    last = now;
  }
}

TEST(SystemClock, MovesWhileTheRuntimeWaits) {
  Clock& clock = system_runtime().clock();
  const Time before = clock.now();
  system_runtime().wait_for(1ms);
  EXPECT_GE(clock.now() - before, 1ms);
}

TEST(SystemRuntime, WaitingForNoTimeReturns) {
  system_runtime().wait_for(0ns);
  system_runtime().wait_for(-1s);
}

TEST(SystemRuntime, IsOneObject) { EXPECT_EQ(&system_runtime(), &system_runtime()); }

TEST(SystemRuntime, SeedsDiffer) { EXPECT_NE(system_runtime().random_seed(), system_runtime().random_seed()); }

TEST(SystemThread, RunsItsBody) {
  bool ran = false;
  system_runtime().spawn("body", [&] { ran = true; })->join();
  EXPECT_TRUE(ran);
}

TEST(SystemThread, CarriesItsNameAsFarAsTheSystemKeepsIt) {
  std::string name(16, '\0');
  const auto ask = [&] { pthread_getname_np(pthread_self(), name.data(), name.size()); };
  system_runtime().spawn("a-name-of-more-than-15-bytes", ask)->join();
  EXPECT_STREQ(name.c_str(), "a-name-of-more-");
}

TEST(SystemThreadDeathTest, MustBeJoined) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(system_runtime().spawn("lost", [] {}), "broken invariant");
}

TEST(SystemCondition, ADeadlineInThePastIsReachedAtOnce) {
  std::mutex mutex;
  std::unique_lock lock(mutex);
  const auto condition = system_runtime().condition();
  EXPECT_FALSE(condition->wait_until(lock, system_runtime().clock().now() - 1s));
  EXPECT_FALSE(condition->wait_until(lock, Time()));
  EXPECT_FALSE(condition->wait_until(lock, Time::min()));
  EXPECT_TRUE(lock.owns_lock());
}

TEST(SystemCondition, ADeadlineComes) {
  std::mutex mutex;
  std::unique_lock lock(mutex);
  const auto condition = system_runtime().condition();
  Clock& clock = system_runtime().clock();
  const Time deadline = clock.now() + 1ms;
  while (condition->wait_until(lock, deadline)) continue;
  EXPECT_GE(clock.now(), deadline);
}

TEST(SystemCondition, ANotificationWakesBeforeTheDeadline) {
  std::mutex mutex;
  const auto condition = system_runtime().condition();
  bool ready = false;
  const auto thread = system_runtime().spawn("notifier", [&] {
    const std::lock_guard lock(mutex);
    ready = true;
    condition->notify_one();
  });
  {
    std::unique_lock lock(mutex);
    while (!ready) EXPECT_TRUE(condition->wait_until(lock, Time::max()));
  }
  thread->join();
}

TEST(SystemExecutors, RunAllTasks) {
  Count done;
  const auto executors = system_runtime().executors(3);
  for (int i = 0; i < 10'000; ++i) executors->launch([&] { done.add(); });
  done.wait_for(10'000);
  EXPECT_EQ(done.value(), 10'000);
}

TEST(SystemExecutors, FinishWhatWasLaunchedBeforeTheyEnd) {
  std::atomic<int> done{0};
  {
    const auto executors = system_runtime().executors(2);
    for (int i = 0; i < 1000; ++i) executors->launch([&] { ++done; });
  }
  EXPECT_EQ(done.load(), 1000);
}

TEST(SystemExecutors, RunTasksThatTasksLaunch) {
  std::atomic<int> done{0};
  {
    const auto executors = system_runtime().executors(2);
    for (int i = 0; i < 10; ++i) {
      executors->launch([&, pool = executors.get()] { pool->launch([&] { ++done; }); });
    }
  }
  EXPECT_EQ(done.load(), 10);
}

// Each task waits until all of them run: with fewer workers it would never end.
TEST(SystemExecutors, UseAllTheirCoresAtOnce) {
  Count running;
  const auto executors = system_runtime().executors(4);
  for (int round = 1; round <= 50; ++round) {
    for (int i = 0; i < 4; ++i) {
      executors->launch([&, round] {
        running.add();
        running.wait_for(4 * round);
      });
    }
    running.wait_for(4 * round);
  }
  EXPECT_EQ(executors->cores(), 4u);
}

TEST(SystemExecutors, NeedACore) {
  try {
    system_runtime().executors(0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::bad_argument);
  }
}

}  // namespace
}  // namespace sluice
