#include "sluice/core/plan.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "sluice/testkit/hand_runtime.h"
#include "tests/graphs.h"

namespace sluice::detail {
namespace {

using testing::HandRuntime;

TEST(Plan, HasAllRoundsOfAJobAtOnce) {
  HandRuntime runtime;
  const auto engine = std::make_shared<Engine>(runtime, EngineOptions{});
  const NodePtr first = moved(engine, numbers(100, 3), 4);
  const NodePtr third = summed(engine, moved(engine, mapped(first, [](Number n) { return n; }), 2), 1);
  const std::vector<NodePtr> targets{third, first};
  Job job(targets);
  const Rounds rounds = plan_rounds(job, engine->shuffles(), engine->blocks());
  ASSERT_EQ(rounds.size(), 4U);
  EXPECT_EQ(rounds[0].size(), 3U);
  EXPECT_EQ(rounds[1].size(), 4U);
  EXPECT_EQ(rounds[1][0].outputs.size(), 2U);  // for the second shuffle and for the second target
  EXPECT_EQ(rounds[2].size(), 2U);
  EXPECT_EQ(rounds[3].size(), 1U);
}

std::size_t rounds_of(const EnginePtr& engine, const NodePtr& target) {
  const std::vector<NodePtr> targets{target};
  return plan_rounds(Job(targets), engine->shuffles(), engine->blocks()).size();
}

TEST(Plan, EndsBeforeARoundThatWantsAPartitionThatIsOnlyThenCached) {
  HandRuntime runtime;
  const auto engine = std::make_shared<Engine>(runtime, EngineOptions{});
  const std::uint64_t accumulator = engine->next_id();
  const NodePtr cached = make_cached(*engine, counted(numbers(100, 2), accumulator), Keep::memory);
  const NodePtr both = make_union(named("union"), {cached, moved(engine, cached, 2)}, UnionBody::How::append);
  EXPECT_EQ(rounds_of(engine, both), 1U);
  EXPECT_EQ(run(engine, both).size(), 200U);
  EXPECT_EQ(engine->accumulated(accumulator), 100);
}

// Two tasks at the same time must not work on the same state.
TEST(Plan, EndsBeforeARoundThatWantsStateThatAnEarlierOneChanges) {
  HandRuntime runtime;
  const auto engine = std::make_shared<Engine>(runtime, EngineOptions{});
  const NodePtr input = moved(engine, numbers(10, 2), 2);
  const NodePtr state = make_zip(named("state"), type_ops<Number>(), {input}, {}, true, 5);
  EXPECT_EQ(rounds_of(engine, moved(engine, state, 2)), 3U);
  EXPECT_EQ(rounds_of(engine, make_union(named("union"), {state, moved(engine, state, 2)}, UnionBody::How::append)),
            2U);
}

// What it is made of may be gone, so nothing of that is run either.
TEST(Plan, MakesNothingForAPartitionThatIsLostForGood) {
  HandRuntime runtime;
  const auto engine = std::make_shared<Engine>(runtime, EngineOptions{});
  const std::uint64_t accumulator = engine->next_id();
  const NodePtr cached =
      make_cached(*engine, moved(engine, counted(numbers(100, 2), accumulator), 2), Keep::memory, true);
  const std::uint64_t owner = std::get<CachedBody>(cached->body).lease->owner;
  const NodePtr later = moved(engine, cached, 1);
  for (const std::uint64_t partition : {0, 1}) engine->blocks().put_elsewhere({owner, partition});
  engine->blocks().lose_for_good({owner, 1});
  const JobResult result = engine->run({later})[0];
  ASSERT_NE(result.error, nullptr);
  try {
    std::rethrow_exception(result.error);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::state_lost);
  }
  EXPECT_EQ(engine->accumulated(accumulator), 0);
  engine->blocks().remove_owner(owner);
  EXPECT_FALSE(engine->blocks().is_lost_for_good({owner, 1}));
  EXPECT_EQ(run(engine, later).size(), 100U);
}

TEST(Plan, ChoosesSomePartitions) {
  HandRuntime runtime;
  const auto engine = std::make_shared<Engine>(runtime, EngineOptions{});
  const std::uint64_t accumulator = engine->next_id();
  const NodePtr chosen = make_chosen(named("chosen"), counted(numbers(40, 4), accumulator), {1, 3});
  EXPECT_EQ(partitions_of(engine->run({chosen})[0]), (std::vector<Numbers>{iota(10, 10), iota(10, 30)}));
  EXPECT_EQ(engine->accumulated(accumulator), 20) << "the others are not made";
}

}  // namespace
}  // namespace sluice::detail
