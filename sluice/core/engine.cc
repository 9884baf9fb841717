#include "sluice/core/engine.h"

#include <algorithm>

#include "sluice/core/plan.h"

namespace sluice::detail {

ShuffleLease::ShuffleLease(std::shared_ptr<Engine> owner, std::uint64_t shuffle)
    : engine(std::move(owner)), id(shuffle) {}
ShuffleLease::~ShuffleLease() { engine->shuffles().close(id); }

BlockLease::BlockLease(std::shared_ptr<Engine> engine_of, std::uint64_t owner_id)
    : engine(std::move(engine_of)), owner(owner_id) {}
BlockLease::~BlockLease() {
  try {
    engine->blocks().remove_owner(owner);
  } catch (const Error& error) {
    // A spilled file that cannot be removed costs disk until the process ends, nothing else.
    std::fprintf(stderr, "sluice: a cached RDD could not be removed: %s\n", error.what());
  }
}

Engine::Engine(Runtime& runtime, EngineOptions options)
    : runtime_(runtime),
      options_(std::move(options)),
      blocks_(runtime, options_.blocks),
      environment_{runtime, blocks_, shuffles_, states_, options_.hash_seed, options_.check_views},
      // The thread that runs a job works on its tasks too.
      executors_(options_.cores > 1 ? runtime.executors(options_.cores - 1) : nullptr),
      task_cores_(options_.cores) {}

Engine::~Engine() = default;

void Engine::reserve_cores(long cores) {
  const long left = static_cast<long>(task_cores_.load()) - cores;
  if (left < 1) {
    throw Error(Code::too_few_cores, {.why = std::to_string(options_.cores) + " cores, " + std::to_string(cores) +
                                             " receivers: " + std::to_string(left) + " cores left for tasks"});
  }
  task_cores_ = static_cast<std::size_t>(left);
}

std::vector<JobResult> Engine::run(const std::vector<NodePtr>& targets, const JobOptions& options) {
  TaskId id;
  id.job = jobs_.fetch_add(1) + 1;
  id.batch = options.batch.time_since_epoch().count();
  Job job(targets);
  try {
    run_rounds(job, id, options.cancelled);
  } catch (...) {
    // No task has failed, but the planner, or memory is short.
    job.fail_all(std::current_exception());
  }
  return std::move(job.results);
}

void Engine::run_rounds(Job& job, TaskId stage, Cancelled cancelled) {
  ProductsByTargets apart;
  for (; job.is_open(); ++stage.stage) {
    Products only;
    const bool is_apart = !apart.empty();
    if (is_apart) only = std::move(apart.extract(apart.begin()).mapped());
    const std::vector<TaskProgram> tasks = plan_round(job, shuffles_, blocks_, is_apart ? &only : nullptr);
    if (is_apart && tasks.empty()) continue;  // what needs them has failed meanwhile
    std::vector<Outcome> outcomes = run_tasks(tasks, stage, cancelled);
    for (std::size_t t = 0; t < tasks.size(); ++t) {
      if (outcomes[t].lost.has_value()) {
        job.lost.insert(*outcomes[t].lost);  // ends: each time there are more that are not relied on
      } else if (outcomes[t].error == nullptr) {
        adopt(tasks[t], outcomes[t].result, job);
      }
    }
    for (const Outcome& outcome : outcomes) {
      if (outcome.cancelled) return job.fail_all(outcome.error);
    }
    settle_failures(tasks, outcomes, is_apart, job, apart);
  }
}

void Engine::settle_failures(const std::vector<TaskProgram>& tasks, const std::vector<Outcome>& outcomes,
                             bool were_apart, Job& job, ProductsByTargets& apart) {
  // Who needs what is found out for all tasks before the first of them makes a target fail. Else a product could seem
  // to be the last target's alone, without having been tried alone.
  std::map<std::size_t, ProductsByTargets> failures;
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    if (outcomes[t].error == nullptr) continue;
    for (const std::uint32_t output : outcomes[t].failed) {
      const std::optional<Product> product = product_of(tasks[t].outputs[output]);
      if (!product.has_value()) continue;
      std::vector<std::size_t> targets = needed_by(*product, job, shuffles_, blocks_);
      if (!targets.empty()) failures[t][std::move(targets)].insert(*product);
    }
  }
  // In the order of tasks: of several errors a target reports the first task's, whichever thread was faster.
  for (auto& [t, failed] : failures) {
    const bool is_final = were_apart || failed.size() == 1;
    for (auto& [targets, products] : failed) {
      if (!is_final) {
        apart[targets].merge(products);
        continue;
      }
      for (const std::size_t target : targets) job.fail(target, outcomes[t].error);
    }
  }
}

void Engine::adopt(const TaskProgram& program, TaskResult& result, Job& job) {
  std::size_t next = 0;
  for (const TaskOutput& output : program.outputs) {
    if (const auto* collect = std::get_if<Collect>(&output.what)) {
      job.results[collect->target].partitions[output.partition] = std::move(result.results[next++]);
    }
  }
  if (!result.adopted || result.updates.empty()) return;
  const std::lock_guard lock(accumulators_mutex_);
  for (const auto& [id, amount] : result.updates) accumulators_[id] += amount;
}

namespace {

/// What the threads that work on one round share.
struct SharedRound {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::unique_ptr<Condition> ended;
  std::size_t left = 0;
};

}  // namespace

// All of them run, even if one fails: what is adopted then does not depend on which thread was faster.
std::vector<Engine::Outcome> Engine::run_tasks(const std::vector<TaskProgram>& programs, const TaskId& stage,
                                               Cancelled cancelled) {
  stages_.fetch_add(1);
  std::vector<Outcome> outcomes(programs.size());
  const auto shared = std::make_shared<SharedRound>();
  shared->left = programs.size();
  shared->ended = runtime_.condition();
  // Threads that come when no task is left touch nothing but `shared`, so the round need not wait for them.
  const auto work = [this, shared, &programs, &outcomes, stage, cancelled, count = programs.size()] {
    for (;;) {
      const std::size_t i = shared->next.fetch_add(1);
      if (i >= count) return;
      TaskId id = stage;
      id.task = static_cast<std::uint32_t>(i);
      // Moved whole: what the user threw is destroyed by the thread that reports it, not by this one.
      outcomes[i] = run_with_retries(programs[i], id, cancelled);
      const std::lock_guard lock(shared->mutex);
      if (--shared->left == 0) shared->ended->notify_all();
    }
  };
  const std::size_t threads = std::min(programs.size(), task_cores_.load());
  for (std::size_t i = 1; i < threads; ++i) executors_->launch(work);
  work();
  std::unique_lock lock(shared->mutex);
  while (shared->left > 0) shared->ended->wait(lock);
  return outcomes;
}

Engine::Outcome Engine::run_with_retries(const TaskProgram& program, TaskId id, Cancelled cancelled) {
  Outcome outcome;
  for (;; ++id.attempt) {
    tasks_.fetch_add(1, std::memory_order_relaxed);
    FailedOutputs failed;
    try {
      outcome.result = run_once(program, id, cancelled, failed);
      outcome.error = nullptr;
      return outcome;
    } catch (const BlockLost& task_lacks) {
      outcome.error = nullptr;
      outcome.lost = task_lacks.block;  // another attempt would not find it either
      return outcome;
    } catch (const Error& error) {
      outcome.error = std::current_exception();
      outcome.cancelled = error.code() == Code::task_cancelled;
    } catch (...) {
      outcome.error = std::current_exception();
    }
    failed_attempts_.fetch_add(1);
    // Where nobody knows (the task did not even travel), it is all of them.
    for (std::uint32_t i = 0; failed.empty() && i < program.outputs.size(); ++i) outcome.failed.insert(i);
    outcome.failed.merge(failed);
    if (outcome.cancelled || id.attempt + 1 >= options_.task_tries) return outcome;
  }
}

TaskResult Engine::run_once(const TaskProgram& program, const TaskId& id, Cancelled cancelled, FailedOutputs& failed) {
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

std::int64_t Engine::accumulated(std::uint64_t accumulator) {
  const std::lock_guard lock(accumulators_mutex_);
  const auto found = accumulators_.find(accumulator);
  return found == accumulators_.end() ? 0 : found->second;
}

EngineCounters Engine::counters() const {
  return {jobs_.load(), stages_.load(), tasks_.load(), failed_attempts_.load()};
}

}  // namespace sluice::detail
