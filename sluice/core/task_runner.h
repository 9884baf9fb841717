// Who runs the tasks of an engine: threads of this process (local_runner.h), or executors (cluster/scheduler.h).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "sluice/core/program.h"
#include "sluice/core/service.h"
#include "sluice/core/state.h"
#include "sluice/runtime/clock.h"

namespace sluice::detail {

/// What a task came to: a result, or an error, or something that it needs and that is gone.
struct TaskOutcome {
  TaskResult result;
  /// Of the last attempt; outputs that failed in any attempt are in `failed`.
  std::exception_ptr error;
  FailedOutputs failed;
  /// The cached partition that it lacked.
  std::optional<BlockId> lost;
  bool cancelled = false;
  /// Where it ran, or what it needed from there, is gone: nobody knows whether it has succeeded.
  bool place_lost = false;
  /// A task of an earlier round has not succeeded, and it may have needed that.
  bool not_run = false;

  bool succeeded() const { return error == nullptr && !lost.has_value() && !place_lost && !not_run; }
};

/// Tasks of a round can run at the same time; those of a later one may read what earlier ones leave.
using Rounds = std::vector<std::vector<TaskProgram>>;
/// By round and task.
using Outcomes = std::vector<std::vector<TaskOutcome>>;

/// Calls outcomes = run(tasks, stage) for one round after the other, until a task has not succeeded.
template <class Run>
Outcomes run_one_by_one(const Rounds& rounds, TaskId stage, const Run& run) {
  Outcomes outcomes;
  bool goes_on = true;
  for (const std::vector<TaskProgram>& tasks : rounds) {
    if (goes_on) {
      outcomes.push_back(run(tasks, stage));
      for (const TaskOutcome& outcome : outcomes.back()) goes_on = goes_on && outcome.succeeded();
    } else {
      outcomes.emplace_back(tasks.size());
      for (TaskOutcome& outcome : outcomes.back()) outcome.not_run = true;
    }
    ++stage.stage;
  }
  return outcomes;
}

/// Runs the tasks of rounds, and keeps what they leave: shuffle output, blocks, state. Threads: safe from all threads.
class TaskRunner {
 public:
  virtual ~TaskRunner() = default;

  /// Runs all tasks of a round, also when one fails: what is adopted does not depend on which one was faster. Those of
  /// the rounds behind it need not be run then. A failing task is tried as often as the engine's options say. `stage`
  /// is that of the first round, and those of the others follow. `cancelled` may be null.
  virtual Outcomes run(const Rounds& rounds, const TaskId& stage, const std::atomic<bool>* cancelled) = 0;
  /// Takes cores away from tasks; SLU-105 when none would be left. Negative gives them back.
  virtual void reserve_cores(long cores) = 0;

  /// Nothing will ask for them any more; ids are not used again.
  virtual void close_shuffle(std::uint64_t shuffle) = 0;
  virtual void remove_blocks(std::uint64_t owner) = 0;

  /// A partition of an operator's state, made anew where its tasks run; for the driver to load and to save. Goes into
  /// the engine's StateStore.
  virtual std::shared_ptr<StatePartition> make_state(const Shipped<StateMaker>& maker, std::size_t partition) = 0;
  /// An operator's state as it has to be.
  struct WantedState {
    Shipped<StateMaker> maker;
    std::size_t partitions = 0;
    /// StatePartition::last_batch.
    std::int64_t version = 0;
  };
  /// What a driver wants to go on with.
  struct WantedStates {
    /// Of the driver that ran the last batches.
    std::uint64_t epoch = 0;
    /// The last one that is complete.
    Time batch{};
    std::vector<WantedState> states;
    /// Also when some partitions are missing.
    bool in_part = false;
    /// Owners of blocks of services.
    std::vector<std::uint64_t> blocks;
  };
  /// A driver of the application begins: the one of that epoch, and executors that know of a newer one leave it. State
  /// that they have kept as it is wanted, since the driver before was lost, is as if it had been made and loaded.
  /// Returns the partitions of which some is missing; of these nothing is left. nullopt: no state has been taken up.
  /// Blocks that they have are in the engine's BlockStore, until they are removed.
  virtual std::optional<std::set<std::size_t>> take_up_state(const std::string& application, std::uint64_t epoch,
                                                             const WantedStates& wanted) = 0;
  /// From now on state keeps in mind what has changed.
  virtual void track_state() = 0;
  /// All of the batch, and of those before, is done: nothing of it will be asked for again. It took so long, of the
  /// interval that it should take at most.
  virtual void completed(Time batch, Duration took, Duration interval) = 0;
  /// True where state lies in other processes: it is there though the engine's StateStore does not know it.
  virtual bool has_state_elsewhere() const = 0;

  /// True when, since the last call, state was taken over by who does not know what has changed since a checkpoint: the
  /// next one has to write all of it.
  virtual bool take_state_moved() = 0;

  /// Services run elsewhere: see service.h. False: whoever would start one does its work in this process.
  virtual bool runs_services() const = 0;
  /// Starts a service on the executor that has the fewest, of those of `preferred_host` that have a free core if there
  /// are any; waits for one if there is none. Only where services run. Errors: SLU-212 none has come in time.
  virtual std::unique_ptr<RunningService> start_service(const Shipped<ServiceMaker>& maker,
                                                        const std::string& preferred_host, ServiceEvents events) = 0;

  struct Counters {
    std::uint64_t tasks = 0;
    std::uint64_t failed_attempts = 0;
  };
  virtual Counters counters() const = 0;
};

}  // namespace sluice::detail
