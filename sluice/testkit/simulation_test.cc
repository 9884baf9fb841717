#include "sluice/testkit/simulation.h"

#include <gtest/gtest.h>

#include <deque>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/fiber.h"

namespace sluice::testing {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Three threads that write their names when it is their turn.
std::string interleaving(Simulation& sim) {
  std::string order;
  sim.run([&] {
    std::vector<std::unique_ptr<Thread>> threads;
    for (const char name : {'a', 'b', 'c'}) {
      threads.push_back(sim.spawn(std::string(1, name), [&, name] {
        for (int i = 0; i < 10; ++i) {
          order += name;
          sim.pause();
        }
      }));
    }
    for (const auto& thread : threads) thread->join();
  });
  return order;
}

TEST(Simulation, IsTheSameForTheSameSeed) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Simulation first(seed);
    Simulation second(seed);
    EXPECT_EQ(interleaving(first), interleaving(second));
    EXPECT_EQ(first.trace_hash(), second.trace_hash());
  }
}

TEST(Simulation, DiffersFromSeedToSeed) {
  std::set<std::string> orders;
  std::set<std::uint64_t> hashes;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Simulation sim(seed);
    orders.insert(interleaving(sim));
    hashes.insert(sim.trace_hash());
  }
  EXPECT_GT(orders.size(), 95U);
  EXPECT_EQ(hashes.size(), 100U);
}

TEST(Simulation, TimeJumpsToTheNextDeadline) {
  Simulation sim(1);
  const Time start = sim.clock().now();
  sim.run([&] {
    std::vector<long> woken;
    std::vector<std::unique_ptr<Thread>> threads;
    for (const int hour : {3, 1, 2}) {
      threads.push_back(sim.spawn("sleeper", [&, hour] {
        sim.wait_for(hours(hour));
        EXPECT_EQ(sim.clock().now(), start + hours(hour));
        woken.push_back(hour);
      }));
    }
    for (const auto& thread : threads) thread->join();
    EXPECT_EQ(woken, (std::vector<long>{1, 2, 3}));
  });
  EXPECT_EQ(sim.clock().now(), start + hours(3));
}

TEST(Simulation, TimeStandsStillWhileSomeoneCanRun) {
  Simulation sim(2);
  const Time start = sim.clock().now();
  EXPECT_EQ(interleaving(sim).size(), 30U);
  EXPECT_EQ(sim.clock().now(), start);
}

TEST(Simulation, StepsTakeTimeIfAskedTo) {
  Simulation sim(2, {.step_time_max = milliseconds(1)});
  const Time start = sim.clock().now();
  EXPECT_EQ(interleaving(sim).size(), 30U);
  EXPECT_GT(sim.clock().now(), start);
  EXPECT_LT(sim.clock().now(), start + seconds(1));
}

TEST(Simulation, WaitUntilTellsTheDeadlineFromANotification) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Simulation sim(seed);
    sim.run([&] {
      std::mutex mutex;
      const auto condition = sim.condition();
      bool flag = false;
      const auto thread = sim.spawn("sets the flag", [&] {
        sim.wait_for(seconds(2));
        const std::lock_guard lock(mutex);
        flag = true;
        condition->notify_one();
      });
      const Time deadline = sim.clock().now() + seconds(1);
      std::unique_lock lock(mutex);
      while (condition->wait_until(lock, deadline)) EXPECT_LT(sim.clock().now(), deadline);
      EXPECT_EQ(sim.clock().now(), deadline);
      EXPECT_FALSE(flag);
      while (!flag) EXPECT_TRUE(condition->wait_until(lock, deadline + hours(1)));
      EXPECT_EQ(sim.clock().now(), deadline + seconds(1));
      lock.unlock();
      thread->join();
    });
  }
}

TEST(Simulation, NameWhoWaitsWhenAllAreStuck) {
  Simulation sim(3);
  const std::unique_ptr<Condition> condition = sim.condition();
  const std::unique_ptr<Condition> other = sim.condition();
  std::unique_ptr<Thread> thread;
  std::mutex mutex;
  try {
    sim.run([&] {
      thread = sim.spawn("the receiver", [&] {
        std::unique_lock lock(mutex);
        while (true) other->wait(lock);
      });
      thread->join();
    });
    FAIL();
  } catch (const SimulationStuck& stuck) {
    const std::string text = stuck.what();
    EXPECT_NE(text.find("the first fiber waits for the end of the receiver"), std::string::npos) << text;
    EXPECT_NE(text.find("the receiver waits for condition 2"), std::string::npos) << text;
  }
}

TEST(Simulation, NamesWhoWasNotJoined) {
  Simulation sim(4);
  std::unique_ptr<Thread> thread;
  try {
    sim.run([&] { thread = sim.spawn("the forgotten", [&] { sim.wait_for(hours(1)); }); });
    FAIL();
  } catch (const std::logic_error& error) {
    EXPECT_NE(std::string(error.what()).find("the forgotten"), std::string::npos) << error.what();
  }
}

TEST(Simulation, RethrowsWhatTheBodyThrew) {
  Simulation sim(5);
  EXPECT_THROW(sim.run([] { throw std::runtime_error("of the body"); }), std::runtime_error);
  int runs = 0;
  sim.run([&] { ++runs; });
  EXPECT_EQ(runs, 1);
}

TEST(Simulation, RethrowsWhatAThreadThrew) {
  Simulation sim(6);
  std::unique_ptr<Thread> thread;
  EXPECT_THROW(sim.run([&] {
    thread = sim.spawn("throws", [] { throw std::out_of_range("of the thread"); });
    thread->join();
  }),
               std::out_of_range);
}

TEST(Simulation, HandsAllItemsFromProducersToConsumers) {
  constexpr int items_each = 100;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Simulation sim(seed);
    std::multiset<int> taken;
    sim.run([&] {
      std::mutex mutex;
      const auto not_empty = sim.condition();
      const auto not_full = sim.condition();
      std::deque<int> queue;
      int producing = 2;
      std::vector<std::unique_ptr<Thread>> threads;
      for (int p = 0; p < 2; ++p) {
        threads.push_back(sim.spawn("producer", [&, p] {
          for (int i = 0; i < items_each; ++i) {
            std::unique_lock lock(mutex);
            while (queue.size() >= 3) not_full->wait(lock);
            queue.push_back(p * items_each + i);
            not_empty->notify_one();
          }
          const std::lock_guard lock(mutex);
          if (--producing == 0) not_empty->notify_all();
        }));
      }
      for (int c = 0; c < 3; ++c) {
        threads.push_back(sim.spawn("consumer", [&] {
          std::unique_lock lock(mutex);
          while (true) {
            while (queue.empty() && producing > 0) not_empty->wait(lock);
            if (queue.empty()) return;
            taken.insert(queue.front());
            queue.pop_front();
            not_full->notify_one();
          }
        }));
      }
      for (const auto& thread : threads) thread->join();
    });
    ASSERT_EQ(taken.size(), 2U * items_each);
    ASSERT_EQ(std::set<int>(taken.begin(), taken.end()).size(), 2U * items_each);
  }
}

TEST(Simulation, FindsALostWakeUp) {
  // Looks at the flag, lets go of the mutex, and waits without looking again: wrong.
  int stuck = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Simulation sim(seed);
    std::mutex mutex;
    const auto condition = sim.condition();
    std::unique_ptr<Thread> thread;
    bool flag = false;
    try {
      sim.run([&] {
        thread = sim.spawn("sets the flag", [&] {
          sim.pause();
          flag = true;
          condition->notify_all();
        });
        if (!flag) {
          sim.pause();
          std::unique_lock lock(mutex);
          condition->wait(lock);
        }
        thread->join();
      });
    } catch (const SimulationStuck&) {
      ++stuck;
    }
  }
  EXPECT_GT(stuck, 20);
  EXPECT_LT(stuck, 180);
}

TEST(Simulation, WakesSpuriouslyNowAndThen) {
  int spurious = 0;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Simulation sim(seed);
    sim.run([&] {
      std::mutex mutex;
      const auto condition = sim.condition();
      std::unique_lock lock(mutex);
      const Time deadline = sim.clock().now() + seconds(1);
      if (condition->wait_until(lock, deadline)) ++spurious;
      for (int i = 0; i < 20; ++i) {
        if (condition->wait_until(lock, sim.clock().now() + seconds(1))) ++spurious;
      }
    });
  }
  EXPECT_GT(spurious, 10);
  EXPECT_LT(spurious, 500);
}

TEST(Simulation, ExecutorsRunAllTasksInAnyOrder) {
  std::set<std::vector<int>> orders;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Simulation sim(seed);
    std::vector<int> order;
    sim.run([&] {
      const auto executors = sim.executors(3);
      EXPECT_EQ(executors->cores(), 3U);
      for (int i = 0; i < 20; ++i) {
        executors->launch([&order, &sim, i] {
          sim.pause();
          order.push_back(i);
        });
      }
    });
    EXPECT_EQ(std::set<int>(order.begin(), order.end()).size(), 20U);
    orders.insert(order);
  }
  EXPECT_GT(orders.size(), 45U);
}

TEST(Simulation, TasksLaunchedByTasksRunBeforeTheExecutorsEnd) {
  Simulation sim(9);
  int runs = 0;
  sim.run([&] {
    const auto executors = sim.executors(2);
    executors->launch([&] {
      ++runs;
      executors->launch([&] { ++runs; });
    });
  });
  EXPECT_EQ(runs, 2);
}

TEST(Simulation, AFiberOfTheCodeUnderTestMayWait) {
  Simulation sim(10);
  std::string order;
  sim.run([&] {
    const auto thread = sim.spawn("other", [&] {
      sim.wait_for(seconds(1));
      order += 'o';
    });
    sluice::detail::Fiber fiber([&] {
      sim.wait_for(seconds(2));
      order += 'f';
      sluice::detail::Fiber::yield();
      order += 'g';
    });
    fiber.resume();
    order += 'm';
    fiber.resume();
    thread->join();
  });
  EXPECT_EQ(order, "ofmg");
}

TEST(Simulation, KillsTheProcessAtAnyStepAndStartsAgain) {
  std::uint64_t kills = 0;
  for (std::uint64_t steps = 0;; ++steps) {
    Simulation sim(11);
    sim.crash_after(steps);
    bool destroyed = false;
    try {
      sim.run([&] {
        const std::shared_ptr<void> guard(nullptr, [&](void*) { destroyed = true; });
        const auto executors = sim.executors(2);
        for (int i = 0; i < 5; ++i) executors->launch([&] { sim.pause(); });
        sim.wait_for(seconds(1));
      });
      break;
    } catch (const SimulatedCrash&) {
      ++kills;
      EXPECT_FALSE(destroyed);
    }
    int runs = 0;
    sim.run([&] {
      const auto thread = sim.spawn("again", [&] { ++runs; });
      thread->join();
    });
    EXPECT_EQ(runs, 1);
  }
  EXPECT_GT(kills, 10U);
}

TEST(Simulation, AProcessBesideIsKilledAtAnyStepAndItsConnectionsClose) {
  std::uint64_t kills = 0;
  std::uint64_t ends = 0;
  for (std::uint64_t steps = 1; ends < 3; ++steps) {
    SCOPED_TRACE(steps);
    Simulation sim(13);
    sim.run([&] {
      const Address address = Address::tcp("127.0.0.1", 7000);
      const auto listener = sim.transport().listen(address);
      bool destroyed = false;
      std::uint64_t others = 0;
      const bool ended = sim.run_process(
          [&] {
            others = sim.process();
            const std::shared_ptr<void> guard(nullptr, [&](void*) { destroyed = true; });
            const auto thread = sim.spawn("of the process", [&] { EXPECT_EQ(sim.process(), others); });
            const auto connection = sim.transport().connect(address, Time::max());
            connection->write("words", Time::max());
            thread->join();
            char byte = 0;
            connection->read({&byte, 1}, sim.clock().now() + seconds(1));
          },
          steps);
      EXPECT_NE(others, sim.process());
      EXPECT_EQ(destroyed, ended);
      ++(ended ? ends : kills);
      // What it has connected ends for us, and we go on.
      try {
        const auto connection = listener->accept(sim.clock().now() + seconds(1));
        char words[8];
        while (connection != nullptr && connection->read(words, Time::max()) != 0U) {
        }
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), Code::network_failed);
      }
      EXPECT_TRUE(sim.run_process([] {}, std::nullopt));
    });
  }
  EXPECT_GT(kills, 5U);
}

}  // namespace
}  // namespace sluice::testing
