#include "sluice/core/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "sluice/core/folds.h"
#include "sluice/core/kernels.h"
#include "sluice/core/shuffles.h"
#include "sluice/core/sources.h"
#include "sluice/core/turns.h"
#include "sluice/runtime/random.h"
#include "sluice/testkit/hand_runtime.h"
#include "sluice/testkit/simulation.h"
#include "tests/graphs.h"

namespace sluice::detail {
namespace {

using testing::HandRuntime;
using testing::Simulation;

NodePtr failing_at(const NodePtr& parent, Number bad) {
  return mapped(parent, [bad](Number n) {
    if (n == bad) throw std::runtime_error("bad number");
    return n;
  });
}

Code code_of(const std::exception_ptr& error) {
  if (error == nullptr) return Code{};
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    return e.code();
  }
}
std::string text_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  }
}

/// Cores, and whether tasks are encoded.
class EngineTest : public ::testing::TestWithParam<std::tuple<std::size_t, bool>> {
 protected:
  EnginePtr make(EngineOptions options = {}) {
    options.cores = std::get<0>(GetParam());
    options.encode_tasks = options.check_views = std::get<1>(GetParam());
    return std::make_shared<Engine>(runtime_, options);
  }
  HandRuntime runtime_;
};

INSTANTIATE_TEST_SUITE_P(Local, EngineTest,
                         ::testing::Combine(::testing::Values(1U, 2U, 4U), ::testing::Values(false, true)),
                         [](const auto& row) {
                           return "Cores" + std::to_string(std::get<0>(row.param)) +
                                  (std::get<1>(row.param) ? "Encoded" : "");
                         });

TEST_P(EngineTest, GivesTheRecordsOfAllPartitionsInOrder) {
  const EnginePtr engine = make();
  EXPECT_EQ(run(engine, numbers(10'000, 7)), iota(10'000));
  EXPECT_EQ(run(engine, mapped(numbers(100, 3), [](Number n) { return n + 5; })), iota(100, 5));
}

TEST_P(EngineTest, RunsNodesWithoutPartitionsAndWithEmptyOnes) {
  const EnginePtr engine = make();
  EXPECT_TRUE(run(engine, make_source(named("nothing"), type_ops<Number>(), {}, 0)).empty());
  EXPECT_TRUE(run(engine, moved(engine, make_source(named("nothing"), type_ops<Number>(), {}, 0), 2)).empty());
  EXPECT_TRUE(run(engine, moved(engine, numbers(0, 3), 2)).empty());
}

TEST_P(EngineTest, GivesTheSameForAnyNumberOfThreads) {
  std::vector<Pair> expected;
  {
    const auto engine = std::make_shared<Engine>(runtime_, EngineOptions{});
    expected = run<Pair>(engine, summed(engine, moved(engine, numbers(5000, 5), 8), 3));
  }
  for (int round = 0; round < 20; ++round) {
    const EnginePtr engine = make();
    EXPECT_EQ(run<Pair>(engine, summed(engine, moved(engine, numbers(5000, 5), 8), 3)), expected);
  }
}

TEST_P(EngineTest, RunsASharedNodeOnceForSeveralTargets) {
  const EnginePtr engine = make();
  const std::uint64_t accumulator = engine->next_id();
  const NodePtr shared = counted(numbers(1000, 4), accumulator);
  const auto results = engine->run({mapped(shared, [](Number n) { return n + 1; }), shared, moved(engine, shared, 2),
                                    summed(engine, shared, 3), make_discard(named("discard"), shared)});
  EXPECT_EQ(values_of(results[0]), iota(1000, 1));
  EXPECT_EQ(values_of(results[1]), iota(1000));
  EXPECT_EQ(values_of(results[2]).size(), 1000U);
  EXPECT_EQ(values_of<Pair>(results[3]).size(), 10U);
  EXPECT_TRUE(values_of(results[4]).empty());
  // Once with the targets that need no shuffle before, once for the map sides: a round reads each node once.
  EXPECT_LE(engine->accumulated(accumulator), 2000);
  const std::uint64_t other = engine->next_id();
  const NodePtr narrow = counted(numbers(1000, 4), other);
  engine->run({mapped(narrow, [](Number n) { return n + 1; }), narrow, narrow});
  EXPECT_EQ(engine->accumulated(other), 1000);
}

TEST_P(EngineTest, MakesOneTargetFailAndTheOthersSucceed) {
  const EnginePtr engine = make();
  const NodePtr shared = numbers(100, 4);
  const NodePtr bad = mapped(
      shared,
      [](Number n) {
        if (n == 60) throw std::runtime_error("sixty");
        return n;
      },
      "choosy");
  const auto results = engine->run({shared, bad, moved(engine, bad, 2), moved(engine, shared, 1)});
  EXPECT_EQ(values_of(results[0]), iota(100));
  EXPECT_EQ(code_of(results[1].error), Code::task_failed);
  EXPECT_NE(text_of(results[1].error).find("sixty"), std::string::npos);
  EXPECT_NE(text_of(results[1].error).find("record 10 of partition 2"), std::string::npos) << text_of(results[1].error);
  EXPECT_NE(text_of(results[1].error).find("choosy"), std::string::npos);
  EXPECT_EQ(code_of(results[2].error), Code::task_failed);
  EXPECT_EQ(values_of(results[3]), iota(100));
}

TEST_P(EngineTest, CountsOnceWhatIsSharedWithATargetThatFails) {
  const EnginePtr engine = make();
  const std::uint64_t accumulator = engine->next_id();
  const NodePtr shared = counted(numbers(100, 4), accumulator);
  const NodePtr bad = failing_at(shared, 60);
  const auto results = engine->run({mapped(shared, [](Number n) { return n; }), bad, moved(engine, shared, 1)});
  EXPECT_EQ(values_of(results[0]), iota(100));
  EXPECT_EQ(code_of(results[1].error), Code::task_failed);
  EXPECT_EQ(values_of(results[2]), iota(100));
  EXPECT_EQ(engine->accumulated(accumulator), 100);
  // Map and parse of four partitions, four times of that one which fails and once without it; then the reduce side.
  EXPECT_EQ(engine->counters().tasks, 4U + 3U + 1U + 1U);
  EXPECT_EQ(engine->counters().failed_attempts, 4U);
}

TEST_P(EngineTest, CountsOnceWhatWasMadeInRoundsBeforeTheFailure) {
  const EnginePtr engine = make();
  const std::uint64_t parsed = engine->next_id();
  const std::uint64_t reduced = engine->next_id();
  const NodePtr shuffled = counted(moved(engine, counted(numbers(1000, 4), parsed), 3), reduced);
  const auto results =
      engine->run({moved(engine, failing_at(shuffled, 500), 2), shuffled, moved(engine, shuffled, 1), shuffled});
  EXPECT_EQ(code_of(results[0].error), Code::task_failed);
  EXPECT_TRUE(results[0].partitions.empty());
  for (int good = 1; good < 4; ++good) EXPECT_EQ(values_of(results[good]).size(), 1000U);
  EXPECT_EQ(engine->accumulated(parsed), 1000);
  EXPECT_EQ(engine->accumulated(reduced), 1000);
}

TEST_P(EngineTest, LetsATargetSucceedThatDoesNotNeedTheRecordThatFails) {
  const EnginePtr engine = make();
  const std::uint64_t accumulator = engine->next_id();
  const NodePtr shared = numbers(100'000, 2);
  const NodePtr bad = failing_at(shared, 90'000);
  const auto info = named("take");
  const NodePtr some =
      make_narrow(info, type_ops<Number>(), bad,
                  ship<Kernel, FoldKernel<Number, Number, TakeFold<Number>, std::uint64_t>>(*info, std::uint64_t{2}));
  const auto results = engine->run({some, bad, counted(shared, accumulator), moved(engine, bad, 1)});
  EXPECT_EQ(values_of(results[0]), (Numbers{0, 1, 50'000, 50'001}));
  EXPECT_EQ(code_of(results[1].error), Code::task_failed);
  EXPECT_EQ(values_of(results[2]), iota(100'000));
  EXPECT_EQ(code_of(results[3].error), Code::task_failed);
  EXPECT_EQ(engine->accumulated(accumulator), 100'000);
}

TEST_P(EngineTest, FailsAllTargetsThatNeedAShuffleByItsOneError) {
  const EnginePtr engine = make();
  const std::uint64_t accumulator = engine->next_id();
  const NodePtr shared = counted(numbers(400, 4), accumulator);
  const NodePtr shuffled = moved(engine, failing_at(shared, 150), 2);
  const NodePtr both = make_union(named("union"), {shared, shuffled}, UnionBody::How::append);
  const auto results =
      engine->run({mapped(shuffled, [](Number n) { return n; }), both, shared, summed(engine, both, 1)});
  for (const int bad : {0, 1, 3}) {
    EXPECT_EQ(code_of(results[bad].error), Code::task_failed);
    EXPECT_EQ(text_of(results[bad].error), text_of(results[0].error));
  }
  EXPECT_EQ(values_of(results[2]), iota(400));
  EXPECT_EQ(engine->accumulated(accumulator), 400);
  EXPECT_EQ(engine->counters().failed_attempts, 4U);
}

TEST_P(EngineTest, RunsOnlyTheMapTasksAgainThatFailed) {
  const EnginePtr engine = make();
  // The last map task fails as often as it may; the others have handed over their buckets.
  static std::atomic<bool> failing;
  failing = true;
  const std::uint64_t accumulator = engine->next_id();
  const NodePtr shuffled = moved(engine,
                                 mapped(counted(numbers(400, 4), accumulator),
                                        [](Number n) {
                                          if (n == 399 && failing) throw std::runtime_error("not yet");
                                          return n;
                                        }),
                                 1);
  EXPECT_EQ(code_of(engine->run({shuffled})[0].error), Code::task_failed);
  EXPECT_EQ(engine->accumulated(accumulator), 300);
  const std::uint64_t tasks = engine->counters().tasks;
  failing = false;
  EXPECT_EQ(run(engine, shuffled), iota(400));
  EXPECT_EQ(engine->accumulated(accumulator), 400);
  EXPECT_EQ(engine->counters().tasks, tasks + 2);
}

TEST_P(EngineTest, RunsOnlyTheTasksAgainThatLackedACachedPartition) {
  const EnginePtr engine = make();
  const std::uint64_t computed = engine->next_id();
  const std::uint64_t read = engine->next_id();
  const NodePtr cached = make_cached(*engine, counted(numbers(1000, 4), computed), Keep::memory);
  EXPECT_EQ(run(engine, cached), iota(1000));
  // The first to read its partition takes all of them away: those that have not been read by then are lost. Not the one
  // whose record fails, though: each of its tries reads it again.
  static std::atomic<Engine*> evicting;
  evicting = engine.get();
  const std::uint64_t owner = std::get<CachedBody>(cached->body).lease->owner;
  const NodePtr evicted = mapped(counted(cached, read), [owner](Number n) {
    if (n / 250 == 2) return n;
    if (Engine* const of = evicting.exchange(nullptr)) of->blocks().remove_owner(owner);
    return n;
  });
  const auto results = engine->run({evicted, moved(engine, evicted, 1), failing_at(evicted, 600)});
  EXPECT_EQ(values_of(results[0]), iota(1000));
  EXPECT_EQ(values_of(results[1]), iota(1000));
  EXPECT_EQ(code_of(results[2].error), Code::task_failed);
  EXPECT_EQ(engine->accumulated(read), 1000);
  const bool is_one_thread = std::get<0>(GetParam()) == 1;
  EXPECT_GE(engine->accumulated(computed), is_one_thread ? 1750 : 1000);
  EXPECT_LE(engine->accumulated(computed), 1750);
}

TEST_P(EngineTest, ReportsTheErrorOfTheFirstTaskToEachTarget) {
  std::vector<std::string> expected;
  for (int round = 0; round < 20; ++round) {
    EngineOptions options;
    options.task_tries = 2;
    const EnginePtr engine = make(options);
    const NodePtr shared = numbers(64, 32);
    const auto fails_from = [](const NodePtr& of, Number first) {
      return mapped(of, [first](Number n) {
        if (n >= first)
          throw std::runtime_error("number " + std::to_string(n) + " from " + std::to_string(first) + ".");
        return n;
      });
    };
    const NodePtr both = fails_from(shared, 40);
    const auto results = engine->run({fails_from(shared, 20), fails_from(both, 9), both, moved(engine, both, 1),
                                      fails_from(moved(engine, shared, 8), 5), shared});
    EXPECT_EQ(values_of(results[5]), iota(64));
    std::vector<std::string> texts;
    for (std::size_t i = 0; i < 5; ++i) texts.push_back(text_of(results[i].error));
    if (expected.empty()) expected = texts;
    EXPECT_EQ(texts, expected);
    EXPECT_NE(texts[0].find("number 20 from 20."), std::string::npos) << texts[0];
    EXPECT_NE(texts[1].find("number 9 from 9."), std::string::npos) << texts[1];
    EXPECT_NE(texts[2].find("number 40 from 40."), std::string::npos) << texts[2];
    EXPECT_NE(texts[3].find("number 40 from 40."), std::string::npos) << texts[3];
  }
}

TEST_P(EngineTest, TriesATaskAgainAndCountsWhatItAddedOnce) {
  const EnginePtr engine = make();
  const std::uint64_t accumulator = engine->next_id();
  const NodePtr flaky = mapped(counted(numbers(100, 2), accumulator), [](Number n) {
    if (n == 99 && TaskContext::current()->id().attempt < 3) throw std::runtime_error("try again");
    return n;
  });
  EXPECT_EQ(run(engine, flaky), iota(100));
  EXPECT_EQ(engine->accumulated(accumulator), 100);
  EXPECT_EQ(engine->counters().failed_attempts, 3U);
  EXPECT_EQ(engine->counters().tasks, 5U);
}

TEST_P(EngineTest, GivesUpAfterTheLastTry) {
  EngineOptions options;
  options.task_tries = 2;
  const EnginePtr engine = make(options);
  const std::uint64_t accumulator = engine->next_id();
  const NodePtr flaky = mapped(counted(numbers(10, 1), accumulator), [](Number n) {
    if (TaskContext::current()->id().attempt < 2) throw std::runtime_error("try again");
    return n;
  });
  EXPECT_EQ(code_of(engine->run({flaky})[0].error), Code::task_failed);
  EXPECT_EQ(engine->counters().tasks, 2U);
  EXPECT_EQ(engine->accumulated(accumulator), 0);
}

TEST_P(EngineTest, ReportsTheErrorOfTheFirstTask) {
  for (int round = 0; round < 50; ++round) {
    EngineOptions options;
    options.task_tries = 1;
    const EnginePtr engine = make(options);
    const NodePtr bad = mapped(numbers(64, 64), [](Number n) {
      if (n >= 7) throw std::runtime_error("number " + std::to_string(n) + ".");
      return n;
    });
    EXPECT_NE(text_of(engine->run({bad})[0].error).find("number 7."), std::string::npos);
  }
}

TEST_P(EngineTest, ReadsCachedPartitionsInsteadOfComputingThem) {
  const EnginePtr engine = make();
  const std::uint64_t accumulator = engine->next_id();
  for (const Keep level : {Keep::memory, Keep::memory_and_disk, Keep::disk}) {
    const std::int64_t before = engine->accumulated(accumulator);
    const NodePtr cached = make_cached(*engine, counted(numbers(1000, 4), accumulator), level);
    for (int action = 0; action < 3; ++action) EXPECT_EQ(run(engine, cached), iota(1000));
    EXPECT_EQ(run(engine, moved(engine, cached, 1)), iota(1000));
    EXPECT_EQ(engine->accumulated(accumulator), before + 1000);
  }
  EXPECT_EQ(engine->blocks().memory_bytes(), 0U);
}

TEST_P(EngineTest, CachesWholePartitionsThoughLessIsWanted) {
  const EnginePtr engine = make();
  const NodePtr cached = make_cached(*engine, numbers(100'000, 2), Keep::memory);
  const auto info = named("take");
  const NodePtr some =
      make_narrow(info, type_ops<Number>(), cached,
                  ship<Kernel, FoldKernel<Number, Number, TakeFold<Number>, std::uint64_t>>(*info, std::uint64_t{3}));
  EXPECT_EQ(run(engine, some), (Numbers{0, 1, 2, 50'000, 50'001, 50'002}));
  EXPECT_EQ(run(engine, cached), iota(100'000));
}

TEST_P(EngineTest, ComputesAgainWhatItsCacheHasNoRoomFor) {
  // Room for about two of eight partitions: each action pushes out what the next, or the same, wants to read.
  EngineOptions options;
  options.blocks.memory_bytes = 40'000;
  const EnginePtr engine = make(options);
  const std::uint64_t accumulator = engine->next_id();
  const NodePtr cached = make_cached(*engine, counted(numbers(16'000, 8), accumulator), Keep::memory);
  for (int action = 0; action < 5; ++action) {
    EXPECT_EQ(run(engine, cached), iota(16'000));
    EXPECT_EQ(run(engine, moved(engine, cached, 1)), iota(16'000));
  }
  EXPECT_GT(engine->accumulated(accumulator), 16'000);
  EXPECT_GT(engine->blocks().counters().evicted, 0U);
  EXPECT_LE(engine->blocks().memory_bytes(), 40'000U + 4 * 20'000U);
}

TEST_P(EngineTest, UsesTheOutputOfAShuffleAgainAndFreesItWithTheNode) {
  const EnginePtr engine = make();
  const std::uint64_t accumulator = engine->next_id();
  {
    const NodePtr shuffled = moved(engine, counted(numbers(1000, 4), accumulator), 2);
    const Numbers first = run(engine, shuffled);
    EXPECT_EQ(first.size(), 1000U);
    EXPECT_EQ(run(engine, shuffled), first);
    EXPECT_EQ(run(engine, mapped(shuffled, [](Number n) { return n; })), first);
    EXPECT_EQ(engine->accumulated(accumulator), 1000);
    EXPECT_EQ(engine->shuffles().size(), 1U);
  }
  EXPECT_EQ(engine->shuffles().size(), 0U);
}

TEST_P(EngineTest, PlansShufflesOfShuffles) {
  const EnginePtr engine = make();
  const NodePtr first = moved(engine, numbers(1000, 3), 4);
  const NodePtr second = moved(engine, mapped(first, [](Number n) { return n * 2; }), 2);
  const NodePtr third = summed(engine, second, 1);
  const auto results = engine->run({third, first, second});
  Number sum = 0;
  for (const auto& [key, value] : values_of<Pair>(results[0])) sum += value;
  EXPECT_EQ(sum, 999'000);
  EXPECT_EQ(values_of(results[1]).size(), 1000U);
  EXPECT_EQ(values_of(results[2]).size(), 1000U);
}

TEST_P(EngineTest, PutsThePartitionsOfAUnionOneAfterTheOther) {
  const EnginePtr engine = make();
  const NodePtr all =
      make_union(named("union"), {numbers(10, 2), numbers(0, 1), numbers(5, 3, 10)}, UnionBody::How::append);
  EXPECT_EQ(all->partitions, 6U);
  EXPECT_EQ(run(engine, all), iota(15));
  const NodePtr same = numbers(10, 2);
  const Numbers twice = run(engine, make_union(named("union"), {same, same}, UnionBody::How::append));
  EXPECT_EQ(twice.size(), 20U);
}

TEST_P(EngineTest, CoalescesNeighbours) {
  const EnginePtr engine = make();
  for (std::size_t partitions = 1; partitions <= 8; ++partitions) {
    const NodePtr fewer = make_union(named("coalesce"), {numbers(70, 7)}, UnionBody::How::coalesce, partitions);
    EXPECT_EQ(fewer->partitions, std::min<std::size_t>(partitions, 7));
    EXPECT_EQ(run(engine, fewer), iota(70)) << partitions;
  }
}

TEST_P(EngineTest, KeepsTheOrderOfAUnionWhateverElseIsPlanned) {
  const EnginePtr engine = make();
  std::vector<NodePtr> parts;
  for (Number i = 0; i < 4; ++i) parts.push_back(numbers(20, 2, 100 * i));
  const NodePtr all = make_union(named("aligned"), parts, UnionBody::How::align);
  const NodePtr last_two = make_union(named("aligned"), {parts[2], parts[3]}, UnionBody::How::align);
  const Numbers alone = run(engine, all);
  EXPECT_EQ(alone.front(), 0);
  EXPECT_EQ(alone[10], 100);
  const auto together = engine->run({parts[3], last_two, parts[1], all, parts[0]});
  EXPECT_EQ(values_of(together[3]), alone);
  EXPECT_EQ(values_of(together[1])[0], 200);
}

TEST_P(EngineTest, StopsWhenItIsCancelled) {
  const EnginePtr engine = make();
  std::atomic<bool> cancelled{true};
  JobOptions options;
  options.cancelled = &cancelled;
  const auto results = engine->run({numbers(100, 2), moved(engine, numbers(100, 2), 1)}, options);
  EXPECT_EQ(code_of(results[0].error), Code::task_cancelled);
  EXPECT_EQ(code_of(results[1].error), Code::task_cancelled);
  cancelled = false;
  EXPECT_EQ(values_of(engine->run({numbers(100, 2)}, options)[0]), iota(100));
}

TEST_P(EngineTest, StopsInTheMiddleOfATask) {
  const EnginePtr engine = make();
  static std::atomic<bool> cancelled;
  cancelled = false;
  const NodePtr node = mapped(numbers(1'000'000, 1), [](Number n) {
    if (n == 5000) cancelled = true;
    if (n == 900'000) throw std::runtime_error("went on");
    return n;
  });
  JobOptions options;
  options.cancelled = &cancelled;
  EXPECT_EQ(code_of(engine->run({node}, options)[0].error), Code::task_cancelled);
  EXPECT_EQ(engine->counters().tasks, 1U);
}

TEST_P(EngineTest, TellsTasksTheBatchTheyBelongTo) {
  const EnginePtr engine = make();
  JobOptions options;
  options.batch = Time(std::chrono::seconds(7));
  const NodePtr node = mapped(numbers(1, 1), [](Number) {
    return Number{TaskContext::current()->batch_time().time_since_epoch() / std::chrono::seconds(1)};
  });
  EXPECT_EQ(values_of(engine->run({node}, options)[0]), Numbers{7});
}

TEST(Engine, RefusesNumbersOfPartitionsThatKeysCannotHave) {
  HandRuntime runtime;
  const auto engine = std::make_shared<Engine>(runtime, EngineOptions{});
  EXPECT_THROW(moved(engine, numbers(1, 1), 0), Error);
  EXPECT_THROW(moved(engine, numbers(1, 1), 1025), Error);
  EXPECT_EQ(run(engine, moved(engine, numbers(2000, 1), 1024)).size(), 2000U);
}

TEST(Engine, LeavesACoreForTasks) {
  HandRuntime runtime;
  const auto engine = std::make_shared<Engine>(runtime, EngineOptions{.cores = 3});
  engine->reserve_cores(2);
  EXPECT_THROW(engine->reserve_cores(1), Error);
  engine->reserve_cores(-2);
  engine->reserve_cores(1);
  EXPECT_EQ(run(engine, numbers(100, 10)), iota(100));
}

TEST(Engine, ComputesAgainWhatIsDamagedOnDisk) {
  Simulation sim(1);
  sim.run([&] {
    EngineOptions options;
    options.blocks.spill_directory = "/spill";
    const auto engine = std::make_shared<Engine>(sim, options);
    const std::uint64_t accumulator = engine->next_id();
    const NodePtr cached = make_cached(*engine, counted(numbers(1000, 4), accumulator), Keep::disk);
    EXPECT_EQ(run(engine, cached), iota(1000));
    const auto directories = sim.files().list("/spill");
    ASSERT_EQ(directories->size(), 1U);
    const auto files = sim.files().list(directories->front().path);
    ASSERT_EQ(files->size(), 4U);
    sim.files().create(files->at(1).path)->append(std::string("SLU1 and nothing that fits"));
    sim.files().remove(files->at(2).path);
    EXPECT_EQ(run(engine, cached), iota(1000));
    EXPECT_EQ(engine->blocks().counters().damaged, 2U);
    EXPECT_EQ(run(engine, cached), iota(1000));  // cached again
    const std::int64_t computed = engine->accumulated(accumulator);
    EXPECT_EQ(run(engine, cached), iota(1000));
    EXPECT_EQ(engine->accumulated(accumulator), computed);
  });
}

TEST(Engine, SurvivesAFullDisk) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    Simulation sim(seed, {.write_failure = 0.5});
    sim.run([&] {
      EngineOptions options;
      options.cores = 3;
      options.blocks.memory_bytes = 20'000;
      options.blocks.spill_directory = "/spill";
      const auto engine = std::make_shared<Engine>(sim, options);
      const NodePtr cached = make_cached(*engine, numbers(8000, 8), Keep::memory_and_disk);
      for (int action = 0; action < 3; ++action) EXPECT_EQ(run(engine, cached), iota(8000)) << "seed " << seed;
    });
  }
}

TEST(Engine, GivesTheSameInEveryInterleaving) {
  std::vector<Pair> expected;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Simulation sim(seed);
    sim.run([&] {
      EngineOptions options;
      options.cores = 1 + seed % 4;
      options.blocks.memory_bytes = seed % 2 == 0 ? 10'000 : 1 << 20;
      options.blocks.spill_directory = "/spill";
      const auto engine = std::make_shared<Engine>(sim, options);
      const NodePtr cached = make_cached(*engine, moved(engine, numbers(4000, 4), 5), static_cast<Keep>(1 + seed % 3));
      const NodePtr sums = summed(engine, make_union(named("union"), {cached, cached}, UnionBody::How::append), 3);
      const auto results = engine->run({sums, cached});
      if (expected.empty()) expected = values_of<Pair>(results[0]);
      EXPECT_EQ(values_of<Pair>(results[0]), expected) << "seed " << seed;
      EXPECT_EQ(values_of(results[1]).size(), 4000U);
    });
  }
}

TEST(Engine, RunsJobsOfSeveralThreadsThatShareNodes) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Simulation sim(seed);
    sim.run([&] {
      EngineOptions options;
      options.cores = 2;
      options.blocks.memory_bytes = 8'000;
      const auto engine = std::make_shared<Engine>(sim, options);
      const NodePtr cached = make_cached(*engine, numbers(2000, 4), Keep::memory);
      const NodePtr shuffled = moved(engine, cached, 1);
      std::vector<std::unique_ptr<Thread>> threads;
      for (int t = 0; t < 3; ++t) {
        threads.push_back(sim.spawn("job" + std::to_string(t), [&] {
          for (int action = 0; action < 3; ++action) {
            EXPECT_EQ(run(engine, shuffled), iota(2000)) << "seed " << seed;
            EXPECT_EQ(run(engine, cached), iota(2000)) << "seed " << seed;
          }
        }));
      }
      for (const auto& thread : threads) thread->join();
    });
  }
}

TEST(Engine, CountsOnceWhatSeveralJobsMakeAtTheSameTime) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Simulation sim(seed);
    sim.run([&] {
      const auto engine = std::make_shared<Engine>(sim, EngineOptions{.cores = 2});
      const std::uint64_t accumulator = engine->next_id();
      const NodePtr shuffled = moved(engine, counted(numbers(2000, 4), accumulator), 1);
      std::vector<std::unique_ptr<Thread>> threads;
      for (int t = 0; t < 3; ++t) {
        threads.push_back(sim.spawn("job", [&] { EXPECT_EQ(run(engine, shuffled), iota(2000)) << "seed " << seed; }));
      }
      for (const auto& thread : threads) thread->join();
      EXPECT_EQ(engine->accumulated(accumulator), 2000) << "seed " << seed;
    });
  }
}

/// group_by_key of text values: memory follows the text, not its square.
TEST(Engine, GroupsManyTextValuesOfOneKey) {
  HandRuntime runtime;
  const auto engine = std::make_shared<Engine>(runtime, EngineOptions{});
  using Row = std::pair<Number, std::string_view>;
  using Group = std::pair<Number, std::vector<std::string_view>>;
  using Combine = GroupCombine<std::string_view>;
  static const std::string text(50, 't');
  const NodePtr rows = mapped<Row>(numbers(20'000, 2), [](Number) { return Row(1, text); });
  const auto info = named("group_by_key");
  const NodePtr groups = make_shuffled(
      *engine, info, type_ops<Group>(), rows,
      ship<ShuffleKernel, CombineKernel<Number, std::string_view, std::vector<std::string_view>, Combine>>(
          *info, Fn<Combine>{}),
      1, true);
  const JobResult result = engine->run({groups})[0];
  const auto groups_made = values_of<Group>(result);
  ASSERT_EQ(groups_made.size(), 1U);
  EXPECT_EQ(groups_made[0].second, std::vector<std::string_view>(20'000, text));
  std::size_t bytes = 0;
  for (const BucketPtr& bucket : engine->shuffles().get(std::get<ShuffledBody>(groups->body).lease->id, 0)) {
    bytes += bucket->bytes();
  }
  EXPECT_LT(bytes, 8U << 20);
}

// ---- Turns

TEST(Turns, PlanWhatTheirFunctionsAskForTogether) {
  HandRuntime runtime;
  const auto engine = std::make_shared<Engine>(runtime, EngineOptions{});
  const std::uint64_t accumulator = engine->next_id();
  const NodePtr shared = counted(numbers(100, 2), accumulator);
  std::string order;
  std::size_t records = 0;
  const auto ask = [&](char name) {
    return [&, name] {
      order += name;
      for (const RestedPtr& partition : Turns::collect(*engine, shared)) records += partition->count();
      order += name;
    };
  };
  Turns turns(*engine, {});
  const auto errors = turns.run({ask('a'), ask('b'), [&] { order += 'c'; }, ask('d')});
  EXPECT_EQ(order, "abcdabd");
  EXPECT_EQ(records, 300U);
  EXPECT_EQ(engine->accumulated(accumulator), 100);
  EXPECT_EQ(engine->counters().jobs, 1U);
  EXPECT_EQ(errors, std::vector<std::exception_ptr>(4));
}

TEST(Turns, GiveEachFunctionItsOwnError) {
  HandRuntime runtime;
  const auto engine = std::make_shared<Engine>(runtime, EngineOptions{});
  const NodePtr good = numbers(10, 1);
  const NodePtr bad = mapped(good, [](Number n) -> Number {
    if (n >= 0) throw std::runtime_error("bad");
    return n;
  });
  bool went_on = false;
  bool caught = false;
  Turns turns(*engine, {});
  const auto errors = turns.run({[&] {
                                   Turns::collect(*engine, good);
                                   went_on = true;
                                 },
                                 [&] { Turns::collect(*engine, bad); }, [] { throw std::runtime_error("mine"); },
                                 [&] {
                                   try {
                                     Turns::collect(*engine, bad);
                                   } catch (const Error&) {
                                     caught = true;
                                   }
                                   Turns::collect(*engine, good);
                                 }});
  EXPECT_TRUE(went_on);
  EXPECT_TRUE(caught);
  EXPECT_EQ(errors[0], nullptr);
  EXPECT_EQ(code_of(errors[1]), Code::task_failed);
  EXPECT_EQ(text_of(errors[2]), "mine");
  EXPECT_EQ(errors[3], nullptr);
}

TEST(Turns, MayBeTakenInsideATurn) {
  HandRuntime runtime;
  const auto engine = std::make_shared<Engine>(runtime, EngineOptions{});
  std::size_t records = 0;
  EXPECT_FALSE(Turns::playing());
  Turns turns(*engine, {});
  const auto errors = turns.run({[&] {
    EXPECT_TRUE(Turns::playing());
    Turns inner(*engine, {});
    const auto inner_errors = inner.run({[&] { records += Turns::collect(*engine, numbers(5, 1))[0]->count(); },
                                         [&] { records += Turns::collect(*engine, numbers(6, 1))[0]->count(); }});
    EXPECT_EQ(inner_errors, std::vector<std::exception_ptr>(2));
    records += Turns::collect(*engine, numbers(7, 1))[0]->count();
  }});
  EXPECT_EQ(errors[0], nullptr);
  EXPECT_EQ(records, 18U);
  EXPECT_FALSE(Turns::playing());
}

TEST(Turns, AreNotNeededToCollect) {
  HandRuntime runtime;
  const auto engine = std::make_shared<Engine>(runtime, EngineOptions{});
  EXPECT_EQ(Turns::collect(*engine, numbers(5, 1))[0]->count(), 5U);
}

}  // namespace
}  // namespace sluice::detail
