#include "sluice/core/local_runner.h"

#include <algorithm>
#include <functional>
#include <string>

namespace sluice::detail {
namespace {

/// What the threads that work on one round share.
struct SharedRound {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::unique_ptr<Condition> ended;
  std::size_t left = 0;
};

using Attempt = std::function<TaskResult(FailedOutputs&)>;

TaskOutcome outcome_of(const TaskProgram& program, const Attempt& attempt) {
  TaskOutcome outcome;
  FailedOutputs failed;
  try {
    outcome.result = attempt(failed);
    return outcome;
  } catch (const BlockLost& task_lacks) {
    outcome.lost = task_lacks.block;
    return outcome;
  } catch (const Error& error) {
    outcome.error = std::current_exception();
    outcome.cancelled = error.code() == Code::task_cancelled;
  } catch (...) {
    outcome.error = std::current_exception();
  }
  outcome.failed = failed.empty() ? all_outputs(program) : std::move(failed);
  return outcome;
}

}  // namespace

TaskOutcome attempt_task(const TaskProgram& program, const TaskId& id, TaskEnvironment& environment,
                         const std::atomic<bool>* cancelled) {
  return outcome_of(program,
                    [&](FailedOutputs& failed) { return run_task(program, id, environment, cancelled, &failed); });
}

LocalRunner::LocalRunner(TaskEnvironment& environment, const LocalRunnerOptions& options)
    : environment_(environment),
      options_(options),
      // The thread that runs a job works on its tasks too.
      executors_(options.cores > 1 ? environment.runtime.executors(options.cores - 1) : nullptr),
      task_cores_(options.cores) {}

LocalRunner::~LocalRunner() = default;

void LocalRunner::reserve_cores(long cores) {
  const long left = static_cast<long>(task_cores_.load()) - cores;
  if (left < 1) {
    throw Error(Code::too_few_cores, {.why = std::to_string(options_.cores) + " cores, " + std::to_string(cores) +
                                             " receivers: " + std::to_string(left) + " cores left for tasks"});
  }
  task_cores_ = static_cast<std::size_t>(left);
}

std::unique_ptr<RunningService> LocalRunner::start_service(const Shipped<ServiceMaker>&, const std::string&,
                                                           ServiceEvents) {
  throw Error(Code::no_executors, {.why = "services run on executors only"});
}

Outcomes LocalRunner::run(const Rounds& rounds, const TaskId& stage, const std::atomic<bool>* cancelled) {
  return run_one_by_one(rounds, stage, [&](const std::vector<TaskProgram>& tasks, const TaskId& id) {
    return run_round(tasks, id, cancelled);
  });
}

std::vector<TaskOutcome> LocalRunner::run_round(const std::vector<TaskProgram>& tasks, const TaskId& stage,
                                                Cancelled cancelled) {
  std::vector<TaskOutcome> outcomes(tasks.size());
  const auto shared = std::make_shared<SharedRound>();
  shared->left = tasks.size();
  shared->ended = environment_.runtime.condition();
  // Threads that come when no task is left touch nothing but `shared`, so the round need not wait for them.
  const auto work = [this, shared, &tasks, &outcomes, stage, cancelled, count = tasks.size()] {
    for (;;) {
      const std::size_t i = shared->next.fetch_add(1);
      if (i >= count) return;
      TaskId id = stage;
      id.task = static_cast<std::uint32_t>(i);
      // Moved whole: what the user threw is destroyed by the thread that reports it, not by this one.
      outcomes[i] = run_with_retries(tasks[i], id, cancelled);
      const std::lock_guard lock(shared->mutex);
      if (--shared->left == 0) shared->ended->notify_all();
    }
  };
  const std::size_t threads = std::min(tasks.size(), task_cores_.load());
  for (std::size_t i = 1; i < threads; ++i) executors_->launch(work);
  work();
  std::unique_lock lock(shared->mutex);
  while (shared->left > 0) shared->ended->wait(lock);
  return outcomes;
}

TaskOutcome LocalRunner::run_with_retries(const TaskProgram& program, TaskId id, Cancelled cancelled) {
  FailedOutputs failed;
  for (;; ++id.attempt) {
    tasks_.fetch_add(1, std::memory_order_relaxed);
    TaskOutcome outcome =
        outcome_of(program, [&](FailedOutputs& failed_now) { return run_once(program, id, cancelled, failed_now); });
    // Another attempt would not find a lost block either.
    if (outcome.error == nullptr) return outcome;
    failed_attempts_.fetch_add(1);
    failed.merge(outcome.failed);
    if (!outcome.cancelled && id.attempt + 1 < options_.task_tries) continue;
    outcome.failed = std::move(failed);
    return outcome;
  }
}

TaskResult LocalRunner::run_once(const TaskProgram& program, const TaskId& id, Cancelled cancelled,
                                 FailedOutputs& failed) {
  if (!options_.encode_tasks) return run_task(program, id, environment_, cancelled, &failed);
  Encoder bytes;
  program.encode_to(bytes);
  const std::string_view view = bytes.view();
  Decoder in(view);
  const TaskProgram decoded = TaskProgram::decode_from(in);
  Encoder result_bytes;
  encode_result(run_task(decoded, id, environment_, cancelled, &failed), result_bytes);
  const std::string_view result_view = result_bytes.view();
  Decoder result_in(result_view);
  return decode_result(result_in);
}

}  // namespace sluice::detail
