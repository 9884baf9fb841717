#include "sluice/cluster/task_group.h"

#include <algorithm>

namespace sluice::detail {

bool is_final(const TaskOutcome& outcome) {
  if (outcome.cancelled) return true;
  try {
    std::rethrow_exception(outcome.error);
  } catch (const Error& error) {
    return error.code() == Code::state_lost || error.code() == Code::no_executors;
  } catch (...) {
    return false;
  }
}

TaskGroup::TaskGroup(std::span<const std::vector<TaskProgram>> rounds, const TaskId& stage)
    : stage_(stage), rounds_(rounds.size()) {
  for (std::uint32_t r = 0; r < rounds.size(); ++r) {
    for (std::uint32_t i = 0; i < rounds[r].size(); ++i) {
      Task& task = tasks_.emplace_back();
      task.program = &rounds[r][i];
      task.round = r;
      task.index = i;
    }
  }
}

TaskId TaskGroup::id_of(std::size_t task) const {
  TaskId id = stage_;
  id.stage += tasks_[task].round;
  id.task = tasks_[task].index;
  id.attempt = static_cast<std::uint32_t>(tasks_[task].failed_at.size());
  return id;
}

Outcomes TaskGroup::take_outcomes() {
  Outcomes outcomes(rounds_.size());
  for (Task& task : tasks_) outcomes[task.round].push_back(std::move(task.outcome));
  return outcomes;
}

void TaskGroup::begin(const std::vector<std::uint32_t>& todo) {
  ++attempt_;
  stopped_round_ = no_round;
  takes_back_ = false;
  rounds_.assign(rounds_.size(), {});
  promised_.clear();
  for (const std::uint32_t t : todo) {
    Task& task = tasks_[t];
    task.running = 0;
    task.is_found_slow = task.is_done = false;
    task.outcome = {};
    ++rounds_[task.round].todo;
  }
}

bool TaskGroup::is_wanted(std::size_t t) {
  Task& task = tasks_[t];
  if (task.is_done) return false;
  if (is_taken_back(t)) task.outcome.not_run = true;
  return !is_taken_back(t);
}

void TaskGroup::give(std::size_t t, ExecutorId executor, Time now) {
  Task& task = tasks_[t];
  if (task.running++ > 0) return;
  ++left_;
  task.first = executor;
  task.since = now;
  for (const TaskOutput& output : task.program->outputs) {
    if (const auto* write = std::get_if<WriteShuffle>(&output.what)) {
      promised_[{write->shuffle, output.partition}] = executor;
    }
  }
}

ExecutorId TaskGroup::promised(std::uint64_t shuffle, std::uint32_t map) const {
  const auto found = promised_.find({shuffle, map});
  return found == promised_.end() ? 0 : found->second;
}

bool TaskGroup::ended(std::size_t t, unsigned attempt, const GivenTask& given, TaskOutcome&& outcome, Time now) {
  Task& task = tasks_[t];
  if (attempt != attempt_ || task.is_done) return false;
  --task.running;
  const bool has_succeeded = outcome.succeeded();
  if (!has_succeeded && task.running > 0) return false;
  task.is_done = true;
  task.outcome = std::move(outcome);
  task.given = given;
  --left_;
  if (has_succeeded) {
    rounds_[task.round].took.push_back(now - task.since);
  } else if (is_taken_back(t) && task.outcome.cancelled) {
    task.outcome = {};
    task.outcome.not_run = true;
  } else {
    stop_behind(t);
  }
  return true;
}

void TaskGroup::stop_behind(std::size_t task) {
  takes_back_ = takes_back_ || tasks_[task].round < stopped_round_;
  stopped_round_ = std::min(stopped_round_, tasks_[task].round);
}

std::vector<std::uint32_t> TaskGroup::slow(Time now, Duration at_least) {
  std::vector<std::uint32_t> slow;
  for (std::uint32_t r = 0; r < rounds_.size(); ++r) {
    std::vector<Duration> took = rounds_[r].took;
    if (took.empty() || 4 * took.size() < 3 * rounds_[r].todo) continue;
    const auto middle = took.begin() + static_cast<std::ptrdiff_t>(took.size() / 2);
    std::nth_element(took.begin(), middle, took.end());
    const Time before = now - std::max(*middle * 3 / 2, at_least);
    for (std::uint32_t t = 0; t < tasks_.size(); ++t) {
      Task& task = tasks_[t];
      if (task.round != r || task.is_done || task.running != 1 || task.is_found_slow || task.since > before) continue;
      task.is_found_slow = true;  // also where nobody else can have it
      slow.push_back(t);
    }
  }
  return slow;
}

std::vector<std::uint32_t> TaskGroup::again(const std::vector<std::uint32_t>& todo, unsigned tries) {
  std::vector<std::uint32_t> again;
  std::vector<std::uint32_t> not_run;
  for (const std::uint32_t t : todo) {
    Task& task = tasks_[t];
    TaskOutcome& outcome = task.outcome;
    if (outcome.not_run) {
      not_run.push_back(t);
    } else if (outcome.error != nullptr) {
      task.failed_at.push_back(task.given.executor);
      task.failed.merge(outcome.failed.empty() ? all_outputs(*task.program) : std::move(outcome.failed));
      if (is_final(outcome) || task.failed_at.size() >= tries) {
        outcome.failed = task.failed;
        ended_round_ = std::min(ended_round_, task.round);
      } else {
        again.push_back(t);
      }
    } else if (!outcome.succeeded()) {
      ended_round_ = std::min(ended_round_, task.round);
    }
  }
  for (const std::uint32_t t : not_run) {
    if (tasks_[t].round <= ended_round_) again.push_back(t);
  }
  std::sort(again.begin(), again.end());
  return again;
}

}  // namespace sluice::detail
