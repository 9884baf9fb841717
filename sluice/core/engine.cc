#include "sluice/core/engine.h"

#include <algorithm>
#include <limits>
#include <optional>

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
  TaskId job;
  job.job = jobs_.fetch_add(1) + 1;
  job.batch = options.batch.time_since_epoch().count();
  std::vector<JobResult> results(targets.size());
  try {
    auto partitions = run_together(targets, job, options.cancelled);
    for (std::size_t i = 0; i < targets.size(); ++i) results[i].partitions = std::move(partitions[i]);
    return results;
  } catch (...) {
    if (targets.size() == 1) {
      results[0].error = std::current_exception();
      return results;
    }
  }
  // One of them failed; failure stays per target. What is complete (shuffles, blocks) is not made again.
  for (std::size_t i = 0; i < targets.size(); ++i) results[i] = std::move(run({targets[i]}, options)[0]);
  return results;
}

std::vector<std::vector<RestedPtr>> Engine::run_together(const std::vector<NodePtr>& targets, const TaskId& job,
                                                         Cancelled cancelled) {
  std::vector<std::vector<RestedPtr>> results(targets.size());
  for (std::size_t i = 0; i < targets.size(); ++i) results[i].resize(targets[i]->partitions);
  std::vector<bool> done(targets.size());
  std::size_t left = targets.size();
  TaskId stage = job;
  std::set<BlockId> lost;
  for (; left > 0; ++stage.stage) {
    const Round round = plan_round(targets, done, shuffles_, blocks_, lost);
    const std::size_t lost_before = lost.size();
    std::vector<TaskResult> task_results = run_tasks(round.tasks, stage, cancelled, lost);
    if (lost.size() != lost_before) continue;  // ends: each time there are more that are not relied on
    for (std::size_t t = 0; t < round.tasks.size(); ++t) {
      std::size_t next = 0;
      for (const TaskOutput& output : round.tasks[t].outputs) {
        if (const auto* collect = std::get_if<Collect>(&output.what)) {
          results[collect->target][output.partition] = std::move(task_results[t].results[next++]);
        }
      }
    }
    for (const std::size_t target : round.targets) done[target] = true;
    left -= round.targets.size();
  }
  return results;
}

namespace {

/// What the threads that work on one round share.
struct SharedRound {
  std::atomic<std::size_t> next{0};
  /// Tasks behind this one need not run.
  std::atomic<std::size_t> failed_first{std::numeric_limits<std::size_t>::max()};
  std::mutex mutex;
  std::unique_ptr<Condition> ended;
  std::size_t left = 0;
  std::exception_ptr error;  // of task `failed_first`
};

}  // namespace

std::vector<TaskResult> Engine::run_tasks(const std::vector<TaskProgram>& programs, const TaskId& stage,
                                          Cancelled cancelled, std::set<BlockId>& lost) {
  stages_.fetch_add(1);
  const std::size_t lost_before = lost.size();
  std::vector<TaskResult> results(programs.size());
  const auto shared = std::make_shared<SharedRound>();
  shared->left = programs.size();
  shared->ended = runtime_.condition();
  // Threads that come when no task is left touch nothing but `shared`, so the round need not wait for them.
  const auto work = [this, shared, &programs, &results, &lost, stage, cancelled, count = programs.size()] {
    for (;;) {
      const std::size_t i = shared->next.fetch_add(1);
      if (i >= count) return;
      std::exception_ptr error;
      std::optional<BlockId> lost_block;
      if (i < shared->failed_first) {
        TaskId id = stage;
        id.task = static_cast<std::uint32_t>(i);
        try {
          results[i] = run_with_retries(programs[i], id, cancelled);
        } catch (const BlockLost& task_lacks) {
          lost_block = task_lacks.block;
        } catch (...) {
          error = std::current_exception();
        }
      }
      const std::lock_guard lock(shared->mutex);
      if (lost_block.has_value()) lost.insert(*lost_block);
      // Of several failures the first task's is reported, whichever thread was faster.
      if (error != nullptr && i < shared->failed_first) {
        shared->error = std::move(error);
        shared->failed_first = i;
      }
      if (--shared->left == 0) shared->ended->notify_all();
    }
  };
  const std::size_t threads = std::min(programs.size(), task_cores_.load());
  for (std::size_t i = 1; i < threads; ++i) executors_->launch(work);
  work();
  {
    std::unique_lock lock(shared->mutex);
    while (shared->left > 0) shared->ended->wait(lock);
    // Moved: what the user threw is destroyed by this thread, not by the last one to let go of the round.
    if (shared->error != nullptr) std::rethrow_exception(std::move(shared->error));
  }
  if (lost.size() != lost_before) return results;
  {
    const std::lock_guard lock(accumulators_mutex_);
    for (const TaskResult& result : results) {
      for (const auto& [id, amount] : result.updates) accumulators_[id] += amount;
    }
  }
  return results;
}

TaskResult Engine::run_with_retries(const TaskProgram& program, TaskId id, Cancelled cancelled) {
  for (;; ++id.attempt) {
    tasks_.fetch_add(1, std::memory_order_relaxed);
    try {
      if (!options_.encode_tasks) return run_task(program, id, environment_, cancelled);
      Encoder bytes;
      program.encode_to(bytes);
      const std::string_view view = bytes.view();
      Decoder in({view.data(), view.size()});
      const TaskProgram decoded = TaskProgram::decode_from(in);
      Encoder result_bytes;
      encode_result(run_task(decoded, id, environment_, cancelled), result_bytes);
      const std::string_view result_view = result_bytes.view();
      Decoder result_in({result_view.data(), result_view.size()});
      return decode_result(result_in);
    } catch (const BlockLost&) {
      throw;  // another attempt would not find it either
    } catch (const Error& error) {
      failed_attempts_.fetch_add(1);
      if (error.code() == Code::task_cancelled || id.attempt + 1 >= options_.task_tries) throw;
    } catch (...) {
      failed_attempts_.fetch_add(1);
      if (id.attempt + 1 >= options_.task_tries) throw;
    }
  }
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
