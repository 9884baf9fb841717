#include "sluice/core/engine.h"

#include <algorithm>

#include "sluice/core/local_runner.h"
#include "sluice/core/plan.h"

namespace sluice::detail {

ShuffleLease::ShuffleLease(std::shared_ptr<Engine> owner, std::uint64_t shuffle)
    : engine(std::move(owner)), id(shuffle) {}
ShuffleLease::~ShuffleLease() { engine->runner().close_shuffle(id); }

BlockLease::BlockLease(std::shared_ptr<Engine> engine_of, std::uint64_t owner_id)
    : engine(std::move(engine_of)), owner(owner_id) {}
BlockLease::~BlockLease() {
  try {
    engine->runner().remove_blocks(owner);
  } catch (const Error& error) {
    // A spilled file that cannot be removed costs disk until the process ends, nothing else.
    std::fprintf(stderr, "sluice: a cached RDD could not be removed: %s\n", error.what());
  }
}

Engine::Engine(Runtime& runtime, EngineOptions options, const MakeRunner& make_runner)
    : runtime_(runtime),
      options_(std::move(options)),
      blocks_(runtime, options_.blocks),
      environment_{runtime, blocks_, shuffles_, states_, options_.hash_seed, options_.check_views} {
  if (make_runner) {
    runner_ = make_runner(*this);
  } else {
    runner_ = std::make_unique<LocalRunner>(
        environment_, LocalRunnerOptions{options_.cores, options_.task_tries, options_.encode_tasks});
  }
}

// State may lie where the runner knows.
Engine::~Engine() { states_.clear(); }

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
  while (job.is_open()) {
    const bool is_apart = !apart.empty();
    const Rounds rounds = is_apart ? plan_only(apart.extract(apart.begin()).mapped(), job, shuffles_, blocks_)
                                   : plan_rounds(job, shuffles_, blocks_);
    if (is_apart && rounds[0].empty()) continue;  // what needs them has failed meanwhile
    stages_.fetch_add(rounds.size());
    Outcomes outcomes = runner_->run(rounds, stage, cancelled);
    stage.stage += static_cast<std::uint32_t>(rounds.size());
    for (std::size_t r = 0; r < rounds.size(); ++r) adopt(rounds[r], outcomes[r], job);
    for (std::size_t r = 0; r < rounds.size(); ++r) {
      for (const TaskOutcome& outcome : outcomes[r]) {
        if (outcome.cancelled) return job.fail_all(outcome.error);
      }
      settle_failures(rounds[r], outcomes[r], is_apart, job, apart);
    }
  }
}

void Engine::adopt(const std::vector<TaskProgram>& tasks, std::vector<TaskOutcome>& outcomes, Job& job) {
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    if (outcomes[t].lost.has_value()) {
      job.lost.insert(*outcomes[t].lost);  // ends: each time there are more that are not relied on
    } else if (outcomes[t].succeeded()) {
      adopt(tasks[t], outcomes[t].result, job);
    }
  }
}

void Engine::settle_failures(const std::vector<TaskProgram>& tasks, const std::vector<TaskOutcome>& outcomes,
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

std::int64_t Engine::accumulated(std::uint64_t accumulator) {
  const std::lock_guard lock(accumulators_mutex_);
  const auto found = accumulators_.find(accumulator);
  return found == accumulators_.end() ? 0 : found->second;
}

EngineCounters Engine::counters() const {
  const TaskRunner::Counters of_tasks = runner_->counters();
  return {jobs_.load(), stages_.load(), of_tasks.tasks, of_tasks.failed_attempts};
}

}  // namespace sluice::detail
