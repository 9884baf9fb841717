// Tasks that executors are given at once, and what has become of each.
//
// They are those of several rounds (Rounds in core/task_runner.h). Tasks of later rounds are given out before what they
// read is there: they know where it will be, wait for it there, and start when it has come (group scheduling:
// Venkataraman et al., Drizzle, SOSP 2017). When a task does not succeed, those of the rounds behind it that have not
// ended are taken back: what they wait for may never come, or come elsewhere.
//
// Invariants:
//  T1. Of attempts at a task that run at the same time (speculation) the first that succeeds counts, and one that fails
//      only when there is no other.
//  T2. What is told of an attempt before the current one is not listened to.
//
// Threads: one at a time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "sluice/cluster/messages.h"
#include "sluice/core/task_runner.h"

namespace sluice::detail {

/// Who was given a task, and who has copies of what it leaves.
struct GivenTask {
  ExecutorId executor = 0;
  ExecutorId state_copy = 0;
  ExecutorId block_copy = 0;
};

class TaskGroup {
 public:
  /// Refers to the rounds' tasks. `stage` is that of the first.
  TaskGroup(std::span<const std::vector<TaskProgram>> rounds, const TaskId& stage);

  std::size_t size() const { return tasks_.size(); }
  /// Rounds come one after the other.
  const TaskProgram& program(std::size_t task) const { return *tasks_[task].program; }
  std::size_t round_of(std::size_t task) const { return tasks_[task].round; }
  /// Its attempt's number is how often it has failed.
  TaskId id_of(std::size_t task) const;

  TaskOutcome& outcome(std::size_t task) { return tasks_[task].outcome; }
  template <class Is>
  bool any(const Is& is) const {
    return std::any_of(tasks_.begin(), tasks_.end(), [&is](const Task& task) { return is(task.outcome); });
  }
  /// By round, as TaskRunner::run gives them.
  Outcomes take_outcomes();
  /// Of the outcome.
  const GivenTask& given(std::size_t task) const { return tasks_[task].given; }
  /// Executors on which it has failed.
  const std::vector<ExecutorId>& failed_at(std::size_t task) const { return tasks_[task].failed_at; }
  unsigned attempt() const { return attempt_; }
  std::uint64_t job() const { return stage_.job; }

  /// An attempt at these tasks begins.
  void begin(const std::vector<std::uint32_t>& todo);
  /// False when it is not to be given to anybody: it is done, or a task of an earlier round has not succeeded, which is
  /// its outcome then.
  bool is_wanted(std::size_t task);
  /// How many executors are at it, and the first of them.
  unsigned running(std::size_t task) const { return tasks_[task].running; }
  ExecutorId first(std::size_t task) const { return tasks_[task].first; }
  void give(std::size_t task, ExecutorId executor, Time now);
  /// It could not be given to anybody.
  void refused(std::size_t task) { stop_behind(task); }
  /// False when the outcome does not count (T1, T2).
  bool ended(std::size_t task, unsigned attempt, const GivenTask& given, TaskOutcome&& outcome, Time now);
  /// True, once, when there are more tasks to be taken back than before: those for which the second says so.
  bool takes_back() { return std::exchange(takes_back_, false); }
  bool is_taken_back(std::size_t task) const { return tasks_[task].round > stopped_round_; }
  /// How many are still out.
  std::size_t left() const { return left_; }

  /// Tasks that run on one executor and take longer than half as long again as the middle one of those of their round
  /// that are done, which are three quarters of all (Spark's defaults), and than `at_least`. Each is found once.
  std::vector<std::uint32_t> slow(Time now, Duration at_least);

  /// The attempt has ended, and what succeeded has been adopted. Those to be tried again, in order.
  std::vector<std::uint32_t> again(const std::vector<std::uint32_t>& todo, unsigned tries);

  /// Where the map partition will lie: with who was given the task that makes it; 0: nobody was.
  ExecutorId promised(std::uint64_t shuffle, std::uint32_t map) const;

  /// Executors were lost while they ran tasks of it.
  bool has_lost_executor = false;
  /// Shuffle output that tasks were to read and that was not there any more, since the attempt began.
  std::vector<OutputLost> lost_output;
  bool has_lost_output = false;

 private:
  struct Task {
    const TaskProgram* program = nullptr;
    std::uint32_t round = 0;
    std::uint32_t index = 0;
    TaskOutcome outcome;
    GivenTask given;
    FailedOutputs failed;
    std::vector<ExecutorId> failed_at;
    // Of the attempt.
    unsigned running = 0;
    ExecutorId first = 0;
    Time since{};
    bool is_found_slow = false;
    bool is_done = false;
  };
  /// Of an attempt.
  struct Round {
    std::size_t todo = 0;
    std::vector<Duration> took;
  };
  static constexpr std::uint32_t no_round = std::numeric_limits<std::uint32_t>::max();
  void stop_behind(std::size_t task);

  const TaskId stage_;
  std::vector<Task> tasks_;
  std::vector<Round> rounds_;
  std::map<std::pair<std::uint64_t, std::uint32_t>, ExecutorId> promised_;
  unsigned attempt_ = 0;
  std::size_t left_ = 0;
  /// The first round in which a task has not succeeded, in this attempt.
  std::uint32_t stopped_round_ = no_round;
  bool takes_back_ = false;
  /// The same for one that is not tried again.
  std::uint32_t ended_round_ = no_round;
};

/// Another attempt would come to the same.
bool is_final(const TaskOutcome& outcome);

}  // namespace sluice::detail
