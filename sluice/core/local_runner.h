// Tasks on threads of this process, in one TaskEnvironment.
#pragma once

#include "sluice/core/stores.h"
#include "sluice/core/task_runner.h"

namespace sluice::detail {

struct LocalRunnerOptions {
  /// Tasks that may run at once; the thread that calls `run` is one of them.
  std::size_t cores = 1;
  unsigned task_tries = 4;
  /// Every task is encoded to bytes, decoded and then run; results too.
  bool encode_tasks = false;
};

/// See TaskRunner.
class LocalRunner final : public TaskRunner {
 public:
  LocalRunner(TaskEnvironment& environment, const LocalRunnerOptions& options);
  ~LocalRunner() override;

  Outcomes run(const Rounds& rounds, const TaskId& stage, const std::atomic<bool>* cancelled) override;
  void reserve_cores(long cores) override;
  void close_shuffle(std::uint64_t shuffle) override { environment_.shuffles.close(shuffle); }
  void remove_blocks(std::uint64_t owner) override { environment_.blocks.remove_owner(owner); }
  std::shared_ptr<StatePartition> make_state(const Shipped<StateMaker>& maker, std::size_t partition) override {
    return maker->make(partition, environment_.hash_seed);
  }
  std::optional<std::set<std::size_t>> take_up_state(const std::string&, std::uint64_t, const WantedStates&) override {
    return std::nullopt;
  }
  void track_state() override { environment_.states.track(); }
  void completed(Time, Duration, Duration) override {}
  bool has_state_elsewhere() const override { return false; }
  bool take_state_moved() override { return false; }
  bool runs_services() const override { return false; }
  std::unique_ptr<RunningService> start_service(const Shipped<ServiceMaker>& maker, const std::string& preferred_host,
                                                ServiceEvents events) override;
  Counters counters() const override { return {tasks_.load(), failed_attempts_.load()}; }

 private:
  using Cancelled = const std::atomic<bool>*;
  std::vector<TaskOutcome> run_round(const std::vector<TaskProgram>& tasks, const TaskId& stage, Cancelled cancelled);
  TaskOutcome run_with_retries(const TaskProgram& program, TaskId id, Cancelled cancelled);
  TaskResult run_once(const TaskProgram& program, const TaskId& id, Cancelled cancelled, FailedOutputs& failed);

  TaskEnvironment& environment_;
  const LocalRunnerOptions options_;
  std::unique_ptr<Executors> executors_;
  std::atomic<std::size_t> task_cores_;
  std::atomic<std::uint64_t> tasks_{0};
  std::atomic<std::uint64_t> failed_attempts_{0};
};

/// One attempt, as an outcome.
TaskOutcome attempt_task(const TaskProgram& program, const TaskId& id, TaskEnvironment& environment,
                         const std::atomic<bool>* cancelled);

}  // namespace sluice::detail
