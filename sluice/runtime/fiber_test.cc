#include "sluice/runtime/fiber.h"

#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace sluice::detail {
namespace {

using Log = std::vector<std::string>;

TEST(Fiber, TakesTurnsWithTheOneWhoResumesIt) {
  Log log;
  Fiber fiber([&] {
    log.push_back("in 1");
    Fiber::yield();
    log.push_back("in 2");
  });
  EXPECT_FALSE(fiber.done());
  log.push_back("out 1");
  fiber.resume();
  EXPECT_FALSE(fiber.done());
  log.push_back("out 2");
  fiber.resume();
  EXPECT_TRUE(fiber.done());
  EXPECT_EQ(log, (Log{"out 1", "in 1", "out 2", "in 2"}));
}

TEST(Fiber, KnowsWhichOneRuns) {
  EXPECT_EQ(Fiber::current(), nullptr);
  Fiber* seen = nullptr;
  Fiber fiber([&] { seen = Fiber::current(); });
  fiber.resume();
  EXPECT_EQ(seen, &fiber);
  EXPECT_EQ(Fiber::current(), nullptr);
}

TEST(Fiber, RethrowsWhatTheBodyThrew) {
  Fiber fiber([] {
    Fiber::yield();
    throw std::runtime_error("broken");
  });
  fiber.resume();
  EXPECT_THROW(fiber.resume(), std::runtime_error);
  EXPECT_TRUE(fiber.done());
  EXPECT_EQ(std::uncaught_exceptions(), 0);
}

TEST(Fiber, KeepsTheHandledExceptionOverAYieldInsideACatchBlock) {
  Log log;
  auto body = [&log](std::string name) {
    return [&log, name] {
      try {
        throw std::runtime_error(name);
      } catch (const std::runtime_error& outer) {
        Fiber::yield();
        log.push_back(outer.what());
        try {
          Fiber::yield();
          throw;  // the exception handled here and not the other fiber's
        } catch (const std::runtime_error& again) {
          Fiber::yield();
          log.push_back(std::string("again ") + again.what());
        }
      }
      EXPECT_EQ(std::current_exception(), nullptr);
    };
  };
  Fiber a(body("a"));
  Fiber b(body("b"));
  try {
    throw std::logic_error("of the caller");
  } catch (const std::logic_error&) {
    // Ends are not nested: a begins first and ends first.
    while (!a.done() || !b.done()) {
      if (!a.done()) a.resume();
      if (!b.done()) b.resume();
    }
    try {
      throw;
    } catch (const std::logic_error& error) {
      EXPECT_STREQ(error.what(), "of the caller");
    }
  }
  EXPECT_EQ(std::current_exception(), nullptr);
  EXPECT_EQ(log, (Log{"a", "b", "again a", "again b"}));
}

struct YieldsWhenDestroyed {
  int* uncaught;
  ~YieldsWhenDestroyed() {
    Fiber::yield();
    *uncaught = std::uncaught_exceptions();
  }
};

TEST(Fiber, KeepsAnExceptionInFlightOverAYieldInADestructor) {
  int uncaught = -1;
  Fiber fiber([&] {
    YieldsWhenDestroyed guard{&uncaught};
    throw std::runtime_error("in flight");
  });
  fiber.resume();
  EXPECT_EQ(std::uncaught_exceptions(), 0);
  EXPECT_THROW(fiber.resume(), std::runtime_error);
  EXPECT_EQ(uncaught, 1);
}

TEST(Fiber, RunsInsideAnotherFiber) {
  Log log;
  Fiber outer([&] {
    Fiber inner([&] {
      log.push_back("inner 1");
      Fiber::yield();
      log.push_back("inner 2");
      throw std::runtime_error("from the inner one");
    });
    inner.resume();
    log.push_back("outer 1");
    Fiber::yield();
    try {
      inner.resume();
    } catch (const std::runtime_error& error) {
      Fiber::yield();
      log.push_back(error.what());
    }
    EXPECT_TRUE(inner.done());
  });
  outer.resume();
  log.push_back("test 1");
  outer.resume();
  log.push_back("test 2");
  outer.resume();
  EXPECT_TRUE(outer.done());
  EXPECT_EQ(log, (Log{"inner 1", "outer 1", "test 1", "inner 2", "test 2", "from the inner one"}));
}

TEST(Fiber, YieldsTogetherWithTheFibersAroundIt) {
  Log log;
  Fiber outer([&] {
    Fiber inner([&] {
      try {
        throw std::runtime_error("handled inside");
      } catch (const std::runtime_error&) {
        log.push_back("inner 1");
        Fiber::yield_from(outer);
        log.push_back("inner 2");
        Fiber::yield();
        try {
          throw;
        } catch (const std::runtime_error& error) {
          log.push_back(error.what());
        }
      }
    });
    inner.resume();
    EXPECT_EQ(std::current_exception(), nullptr);
    log.push_back("outer");
    Fiber::yield();
    EXPECT_EQ(Fiber::current(), &outer);
    inner.resume();
  });
  outer.resume();
  log.push_back("test 1");
  outer.resume();
  log.push_back("test 2");
  outer.resume();
  EXPECT_TRUE(outer.done());
  EXPECT_EQ(log, (Log{"inner 1", "test 1", "inner 2", "outer", "test 2", "handled inside"}));
}

TEST(Fiber, IsAbandonedTogetherWithTheFibersInsideIt) {
  Fiber outer([&outer] {
    auto inner = std::make_unique<Fiber>([&outer] {
      const std::string held(1'000, 'x');
      Fiber::yield_from(outer);
    });
    inner->resume();
  });
  outer.resume();
  outer.abandon();
  EXPECT_TRUE(outer.done());
}

struct Notes {
  Log* log;
  std::string name;
  Notes(Log& to, std::string n) : log(&to), name(std::move(n)) {}
  ~Notes() { log->push_back(name); }
};

TEST(Fiber, DestroysLocalsThenCapturesWhenTheBodyEnds) {
  Log log;
  auto captured = std::make_shared<Notes>(log, "captured");
  Fiber fiber([&log, captured = std::move(captured)] {
    Notes first(log, "first local");
    Notes second(log, "second local");
    Fiber::yield();
  });
  fiber.resume();
  EXPECT_TRUE(log.empty());
  fiber.resume();
  EXPECT_EQ(log, (Log{"second local", "first local", "captured"}));
}

TEST(Fiber, ThatNeverRanJustDropsItsBody) {
  Log log;
  {
    Fiber fiber([notes = std::make_shared<Notes>(log, "captured")] { FAIL(); });
  }
  EXPECT_EQ(log, Log{"captured"});
}

TEST(Fiber, ThatIsAbandonedDestroysNothingOfItsStack) {
  Log log;
  {
    Fiber fiber([&log] {
      const auto held = std::make_unique<Notes>(log, "local");
      Fiber::yield();
    });
    fiber.resume();
    fiber.abandon();
    EXPECT_TRUE(fiber.done());
  }
  EXPECT_TRUE(log.empty());
}

TEST(Fiber, ThousandsLiveAtTheSameTime) {
  constexpr int count = 2'000;
  long sum = 0;
  std::vector<std::unique_ptr<Fiber>> fibers;
  for (int i = 0; i < count; ++i) {
    fibers.push_back(std::make_unique<Fiber>(
        [&sum, i] {
          sum += i;
          Fiber::yield();
          sum += i;
        },
        64 << 10));
  }
  for (auto& fiber : fibers) fiber->resume();
  for (auto& fiber : fibers) fiber->resume();
  for (auto& fiber : fibers) EXPECT_TRUE(fiber->done());
  EXPECT_EQ(sum, static_cast<long>(count) * (count - 1));
}

TEST(Fiber, StacksAreUsedAgain) {
  for (int i = 0; i < 3'000; ++i) {
    Fiber fiber([] {
      volatile char touched[8'000];
      touched[0] = 1;
      touched[7'999] = touched[0];
      Fiber::yield();
    });
    fiber.resume();
    fiber.resume();
  }
}

int depth_of(int levels) {
  volatile char frame[512];
  frame[0] = static_cast<char>(levels);
  if (levels == 0) {
    Fiber::yield();
    return 0;
  }
  return depth_of(levels - 1) + 1 + (frame[0] - static_cast<char>(levels));
}

TEST(Fiber, RecursesAsDeepAsItsStackIs) {
  // 2,000 levels of 0.5 kB, or of several kB under a sanitizer.
  int depth = 0;
  Fiber fiber([&] { depth = depth_of(2'000); }, 16 << 20);
  fiber.resume();
  fiber.resume();
  EXPECT_EQ(depth, 2'000);
}

#if !defined(__SANITIZE_THREAD__)
int overflow(const volatile int& stop) {
  volatile char frame[1'024];
  frame[0] = 1;
  return stop == 0 ? overflow(stop) + frame[0] : 0;
}

TEST(FiberDeathTest, OverflowHitsTheGuardPage) {
  EXPECT_DEATH(
      {
        const volatile int stop = 0;
        Fiber fiber([&stop] { overflow(stop); }, 64 << 10);
        fiber.resume();
      },
      "");
}
#endif

TEST(Fiber, EachThreadHasItsOwn) {
  std::vector<std::thread> threads;
  std::vector<long> sums(4);
  for (std::size_t t = 0; t < sums.size(); ++t) {
    threads.emplace_back([&sums, t] {
      std::vector<std::unique_ptr<Fiber>> fibers;
      for (long i = 0; i < 50; ++i) {
        fibers.push_back(std::make_unique<Fiber>([&sums, t, i] {
          for (int round = 0; round < 100; ++round) {
            sums[t] += i;
            Fiber::yield();
          }
        }));
      }
      for (bool some = true; some;) {
        some = false;
        for (auto& fiber : fibers) {
          if (fiber->done()) continue;
          fiber->resume();
          some = true;
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const long sum : sums) EXPECT_EQ(sum, 100L * 50 * 49 / 2);
}

}  // namespace
}  // namespace sluice::detail
