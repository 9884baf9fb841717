// Tasks that executors are given before what they read is there.
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "sluice/sluice.h"
#include "sluice/testkit/simulation.h"
#include "sluice/testkit/testing.h"
#include "tests/scenario/cluster_jobs.h"

namespace sluice::testing {
namespace {

using namespace std::chrono_literals;

using Counts = std::vector<std::pair<int, long>>;

/// Two executors of one core. A task that makes number 0 takes a minute, and no other number any time.
class Rounds : public ::testing::Test {
 protected:
  template <class Body>
  void live(const Body& body) {
    SimulationOptions network;
    network.message_delay_max = 1ms;
    Simulation sim(3, network);
    sim.run([&] {
      StreamTestOptions options{.batch = 100ms, .partitions = 4, .cores = 1};
      options.executors = 2;
      options.runtime = &sim;
      StreamTest t(options);
      const Rdd<int> numbers = t.context().parallelize(std::vector{0, 1, 2, 3, 4, 5, 6, 7}, 4);
      const auto slow = numbers.map([](int number) {
        auto* const task = sluice::detail::TaskContext::current();
        for (int slept = 0; number == 0 && slept < 600; ++slept) {
          task->environment().runtime.wait_for(100ms);
          task->check_cancelled();
        }
        return std::pair{number % 2, 1L};
      });
      const auto sum = [](long a, long b) { return a + b; };
      const auto counts = slow.reduce_by_key(sum).map(
          [](const std::pair<int, long>& count) { return std::pair{static_cast<int>(count.second), 1L}; });
      body(sim, t, counts.reduce_by_key(sum));
    });
  }
  const Counts expected_{{4, 2}};
};

// Much longer than an executor may owe an answer, while the only thread for tasks is busy.
TEST_F(Rounds, ATaskWaitsForItsInputHoweverLongThatTakesToMake) {
  live([&](Simulation& sim, StreamTest& t, const Rdd<std::pair<int, long>>& counts) {
    const Time begun = sim.clock().now();
    EXPECT_EQ(counts.collect(), expected_);
    EXPECT_LT(sim.clock().now() - begun, 61s);
    EXPECT_EQ(pids(t.context()).size(), 2u);
    EXPECT_EQ(scheduler_of(t.context()).counters().tasks, 12u) << "each has run once";
  });
}

TEST_F(Rounds, WhatWaitsForAnExecutorThatIsLostIsRunAgain) {
  for (const std::size_t killed : {0, 1}) {
    live([&](Simulation& sim, StreamTest& t, const Rdd<std::pair<int, long>>& counts) {
      const auto killing = sim.spawn("killing", [&] {
        sim.wait_for(10s);
        t.kill_executor(killed);
      });
      const Time begun = sim.clock().now();
      EXPECT_EQ(counts.collect(), expected_);
      // The minute begins again where it was begun by the one that is lost.
      EXPECT_LT(sim.clock().now() - begun, 72s);
      killing->join();
    });
  }
}

TEST_F(Rounds, WhatWaitsEndsAtOnceWhenItsJobIsCancelled) {
  live([&](Simulation& sim, StreamTest& t, const Rdd<std::pair<int, long>>& counts) {
    std::atomic<bool> cancelled{false};
    const auto cancelling = sim.spawn("cancelling", [&] {
      sim.wait_for(10s);
      cancelled = true;
    });
    const Time begun = sim.clock().now();
    const auto results = t.context().engine()->run({counts.node()}, {.cancelled = &cancelled});
    EXPECT_NE(results[0].error, nullptr);
    // Those that run and those that wait for what will not be made any more.
    EXPECT_LT(sim.clock().now() - begun, 10500ms);
    cancelling->join();
    // Another job does not find anything of it in its way.
    EXPECT_EQ(t.context().parallelize(std::vector{1, 2, 3}, 2).count(), 3);
  });
}

}  // namespace
}  // namespace sluice::testing
