#include "sluice/cluster/task_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <exception>
#include <utility>
#include <vector>

namespace sluice::detail {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::uint64_t shuffle = 7;
const Time start{};

TaskOutcome failure(Code code = Code::task_failed) {
  TaskOutcome outcome;
  outcome.error = std::make_exception_ptr(Error(code, {}));
  outcome.cancelled = code == Code::task_cancelled;
  return outcome;
}
TaskOutcome lost() {
  TaskOutcome outcome;
  outcome.place_lost = true;
  return outcome;
}

/// Tasks 0 and 1 write a shuffle, 2 and 3 read it, 4 comes after these.
class TaskGroupTest : public ::testing::Test {
 protected:
  TaskGroupTest() : rounds_(make_rounds()), group(rounds_, {.job = 3, .stage = 5, .batch = 9}) {}

  static Rounds make_rounds() {
    Rounds rounds(3);
    rounds[0].resize(2);
    rounds[1].resize(2);
    rounds[2].resize(1);
    for (std::uint32_t p = 0; p < 2; ++p) {
      rounds[0][p].outputs.push_back({.what = WriteShuffle{shuffle, 2, {}}, .partition = p, .info = nullptr});
      rounds[1][p].outputs.push_back({.what = Collect{}, .partition = p, .info = nullptr});
    }
    return rounds;
  }
  /// All of `todo` are given to executor 1 + task.
  void give(const std::vector<std::uint32_t>& todo) {
    group.begin(todo);
    for (const std::uint32_t task : todo) {
      ASSERT_TRUE(group.is_wanted(task));
      group.give(task, task + 1, start);
    }
  }
  bool end(std::size_t task, TaskOutcome&& outcome = {}) {
    return group.ended(task, group.attempt(), {static_cast<ExecutorId>(task + 1), 0, 0}, std::move(outcome), start);
  }
  std::vector<std::uint32_t> taken_back() {
    std::vector<std::uint32_t> tasks;
    for (std::uint32_t task = 0; task < group.size(); ++task) {
      if (group.is_taken_back(task)) tasks.push_back(task);
    }
    return tasks;
  }

 private:
  const Rounds rounds_;

 protected:
  const std::vector<std::uint32_t> all_{0, 1, 2, 3, 4};
  TaskGroup group;
};

TEST_F(TaskGroupTest, NumbersTasksByRoundAndSaysWhereTheirOutputWillBe) {
  give(all_);
  EXPECT_EQ(group.left(), 5U);
  EXPECT_EQ(group.id_of(3).stage, 6U);
  EXPECT_EQ(group.id_of(3).task, 1U);
  EXPECT_EQ(group.id_of(4).stage, 7U);
  EXPECT_EQ(group.id_of(4).job, 3U);
  EXPECT_EQ(group.id_of(4).batch, 9);
  EXPECT_EQ(group.promised(shuffle, 1), 2U);
  EXPECT_EQ(group.promised(shuffle, 2), 0U);
  EXPECT_EQ(group.promised(shuffle + 1, 1), 0U);
}

TEST_F(TaskGroupTest, IsDoneWhenAllHaveSucceeded) {
  give(all_);
  for (const std::uint32_t task : {3, 0, 4, 1, 2}) EXPECT_TRUE(end(task));
  EXPECT_EQ(group.left(), 0U);
  EXPECT_FALSE(group.takes_back());
  EXPECT_THAT(group.again(all_, 4), IsEmpty());
  const Outcomes outcomes = group.take_outcomes();
  ASSERT_EQ(outcomes.size(), 3U);
  EXPECT_EQ(outcomes[0].size(), 2U);
  EXPECT_EQ(outcomes[2].size(), 1U);
}

TEST_F(TaskGroupTest, TakesBackWhatIsBehindATaskThatFailsAndTriesBothAgain) {
  give(all_);
  end(0);
  end(1, failure());
  EXPECT_TRUE(group.takes_back());
  EXPECT_FALSE(group.takes_back());
  EXPECT_THAT(taken_back(), ElementsAre(2, 3, 4));
  end(2);  // it had all it needed
  end(3, failure(Code::task_cancelled));
  end(4, failure(Code::task_cancelled));
  EXPECT_EQ(group.left(), 0U);
  EXPECT_TRUE(group.outcome(3).not_run);
  const std::vector<std::uint32_t> again = group.again(all_, 2);
  EXPECT_THAT(again, ElementsAre(1, 3, 4));
  EXPECT_THAT(group.failed_at(1), ElementsAre(2U));
  EXPECT_THAT(group.failed_at(3), IsEmpty());
  EXPECT_EQ(group.id_of(1).attempt, 1U);
  EXPECT_EQ(group.id_of(3).attempt, 0U);
  give(again);
  end(1, failure());
  EXPECT_TRUE(group.takes_back());
  end(3, failure(Code::task_cancelled));
  end(4, failure(Code::task_cancelled));
  // Twice was all there was: what is behind it is not run.
  EXPECT_THAT(group.again(again, 2), IsEmpty());
  EXPECT_NE(group.outcome(1).error, nullptr);
  EXPECT_TRUE(group.outcome(3).not_run);
  EXPECT_TRUE(group.outcome(2).succeeded());
}

TEST_F(TaskGroupTest, DoesNotTryAgainBehindATaskWhoseExecutorIsLost) {
  give(all_);
  end(1, lost());
  for (const std::uint32_t task : {2, 3, 4}) end(task, failure(Code::task_cancelled));
  end(0, failure());
  const std::vector<std::uint32_t> again = group.again(all_, 4);
  EXPECT_THAT(again, ElementsAre(0));  // of the same round
  give(again);
  end(0);
  EXPECT_THAT(group.again(again, 4), IsEmpty());
  EXPECT_TRUE(group.outcome(1).place_lost);
  EXPECT_TRUE(group.outcome(4).not_run);
}

TEST_F(TaskGroupTest, DoesNotGiveOutWhatIsBehindATaskThatCouldNotBeGivenToAnybody) {
  group.begin(all_);
  group.outcome(0) = lost();
  group.refused(0);
  EXPECT_TRUE(group.is_wanted(1));
  for (const std::uint32_t task : {2, 3, 4}) {
    EXPECT_FALSE(group.is_wanted(task));
    EXPECT_TRUE(group.outcome(task).not_run);
  }
}

TEST_F(TaskGroupTest, KeepsTheCancellationOfAJobApartFromItsOwn) {
  give(all_);
  end(0);
  end(1);
  for (const std::uint32_t task : {2, 3, 4}) end(task, failure(Code::task_cancelled));
  EXPECT_THAT(group.again(all_, 4), IsEmpty());
  EXPECT_TRUE(group.outcome(2).cancelled);
  EXPECT_TRUE(group.outcome(3).cancelled);
  EXPECT_TRUE(group.outcome(4).not_run);
}

TEST_F(TaskGroupTest, CountsTheFirstOfTwoThatSucceedsAndAFailureOnlyOfTheLast) {
  group.begin({0, 1});
  group.give(0, 1, start);
  group.give(0, 2, start);
  group.give(1, 1, start);
  EXPECT_EQ(group.left(), 2U);
  EXPECT_EQ(group.first(0), 1U);
  EXPECT_FALSE(end(0, failure()));
  EXPECT_EQ(group.left(), 2U);
  EXPECT_TRUE(end(0));
  EXPECT_EQ(group.left(), 1U);
  EXPECT_FALSE(group.ended(1, group.attempt() - 1, {}, {}, start));
  EXPECT_EQ(group.left(), 1U);
  EXPECT_TRUE(end(1));
}

TEST_F(TaskGroupTest, FindsASlowTaskOnce) {
  Rounds rounds(1);
  rounds[0].resize(4);
  TaskGroup four(rounds, {});
  four.begin({0, 1, 2, 3});
  for (std::size_t task = 0; task < 4; ++task) four.give(task, 1, start);
  four.ended(0, four.attempt(), {}, {}, start + 1s);
  four.ended(1, four.attempt(), {}, {}, start + 2s);
  EXPECT_THAT(four.slow(start + 1h, 0s), IsEmpty());  // half of them are not enough
  four.ended(2, four.attempt(), {}, {}, start + 4s);
  EXPECT_THAT(four.slow(start + 2900ms, 0s), IsEmpty());
  EXPECT_THAT(four.slow(start + 3100ms, 5s), IsEmpty());
  EXPECT_THAT(four.slow(start + 3100ms, 0s), ElementsAre(3));
  EXPECT_THAT(four.slow(start + 3100ms, 0s), IsEmpty());
}

}  // namespace
}  // namespace sluice::detail
