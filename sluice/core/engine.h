// The engine of one Context: its stores, and jobs over the lineage graph.
//
// A job collects the records of its targets, which are nodes. The targets of one call are planned together: the graph
// is cut at shuffles into rounds; in a round, everything that hangs together over a partition is one task, in which a
// shared node runs once and its chunks are teed.
//
// Threads: all members are safe from all threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "sluice/core/node.h"
#include "sluice/core/stores.h"
#include "sluice/core/task.h"
#include "sluice/core/task_runner.h"

namespace sluice::detail {

struct EngineOptions {
  /// Tasks that may run at once.
  std::size_t cores = 1;
  std::uint64_t hash_seed = 0;
  /// Every task is encoded to bytes, decoded and then run; results too.
  bool encode_tasks = false;
  bool check_views = false;
  unsigned task_tries = 4;
  BlockStore::Options blocks;
};

/// Records of a node by partition, or why they could not be made.
struct JobResult {
  std::vector<RestedPtr> partitions;
  std::exception_ptr error;
};

struct JobOptions {
  /// Batch time; the epoch outside a stream.
  Time batch{};
  /// Tasks give up when it becomes true (SLU-205).
  const std::atomic<bool>* cancelled = nullptr;
  /// Called by Turns before anything that follows from the records of an RDD can be seen outside the engine: it returns
  /// when what they were made from is on the disk. Empty: nothing to wait for.
  std::function<void()> gate{};
};

/// What jobs have cost so far.
struct EngineCounters {
  std::uint64_t jobs = 0;
  std::uint64_t stages = 0;
  std::uint64_t tasks = 0;
  std::uint64_t failed_attempts = 0;
};

struct Job;
struct Product;

class Engine : public std::enable_shared_from_this<Engine> {
 public:
  /// Makes the runner of an engine's tasks; the engine outlives it.
  using MakeRunner = std::function<std::unique_ptr<TaskRunner>(Engine&)>;
  /// Without `make_runner` tasks run on threads of this process.
  Engine(Runtime& runtime, EngineOptions options, const MakeRunner& make_runner = nullptr);
  ~Engine();

  /// Runs the targets together. A failure of one does not keep the others from succeeding, and does not make what they
  /// share be made, or counted by accumulators, again: a task that fails takes down the targets that need its operator
  /// that threw. Only where that operator serves several targets is the task run again for each of them alone, because
  /// some may not need the records that it fails on.
  std::vector<JobResult> run(const std::vector<NodePtr>& targets, const JobOptions& options = {});

  /// Takes cores away from tasks, for receivers; SLU-105 when none would be left. Negative gives them back.
  void reserve_cores(long cores) { runner_->reserve_cores(cores); }
  std::size_t cores() const { return options_.cores; }

  /// An id no other shuffle, cached RDD, accumulator or state of this engine has.
  std::uint64_t next_id() { return next_id_.fetch_add(1) + 1; }
  /// From now on ids are larger than that.
  void skip_ids(std::uint64_t through) {
    std::uint64_t last = next_id_.load();
    while (last < through && !next_id_.compare_exchange_weak(last, through)) {
    }
  }
  /// Not const until the graph is fixed: the user may still name it.
  std::shared_ptr<OperatorInfo> info(std::string name, Place where) const {
    return std::make_shared<OperatorInfo>(OperatorInfo{std::move(name), where});
  }

  std::int64_t accumulated(std::uint64_t accumulator);
  EngineCounters counters() const;
  Runtime& runtime() { return runtime_; }
  BlockStore& blocks() { return blocks_; }
  ShuffleStore& shuffles() { return shuffles_; }
  StateStore& states() { return states_; }
  TaskEnvironment& environment() { return environment_; }
  TaskRunner& runner() { return *runner_; }
  const EngineOptions& options() const { return options_; }

 private:
  using Cancelled = const std::atomic<bool>*;
  /// What failed in a task that was to make more than that, by the targets that need it: it is made alone, one set of
  /// targets after the other, because two tasks of a round must not work on the same state (S1 in state.h).
  using ProductsByTargets = std::map<std::vector<std::size_t>, std::set<Product>>;
  void run_rounds(Job& job, TaskId stage, Cancelled cancelled);
  void settle_failures(const std::vector<TaskProgram>& tasks, const std::vector<TaskOutcome>& outcomes, bool were_apart,
                       Job& job, ProductsByTargets& apart);
  void adopt(const std::vector<TaskProgram>& tasks, std::vector<TaskOutcome>& outcomes, Job& job);
  void adopt(const TaskProgram& program, TaskResult& result, Job& job);

  Runtime& runtime_;
  EngineOptions options_;
  BlockStore blocks_;
  ShuffleStore shuffles_;
  StateStore states_;
  TaskEnvironment environment_;
  std::unique_ptr<TaskRunner> runner_;
  std::atomic<std::uint64_t> next_id_{0};
  std::atomic<std::uint64_t> jobs_{0};
  std::atomic<std::uint64_t> stages_{0};
  std::mutex accumulators_mutex_;
  std::map<std::uint64_t, std::int64_t> accumulators_;
};

// ---- Constructors of nodes

NodePtr make_source(OperatorInfoPtr info, const TypeOps& type, std::vector<Shipped<Source>> sources,
                    std::size_t partitions, std::shared_ptr<const void> holds = nullptr, bool by_key = false);
NodePtr make_narrow(OperatorInfoPtr info, const TypeOps& type, NodePtr parent, Shipped<Kernel> kernel,
                    bool keeps_partitioning = false);
NodePtr make_shuffled(Engine& engine, OperatorInfoPtr info, const TypeOps& type, NodePtr parent,
                      Shipped<ShuffleKernel> kernel, std::size_t partitions, bool by_key);
NodePtr make_union(OperatorInfoPtr info, std::vector<NodePtr> parents, UnionBody::How how,
                   std::size_t coalesced_partitions = 0);
/// Parents must be partitioned alike. `batch`, `state`: for operators with state, the batch time, and what makes it.
NodePtr make_zip(OperatorInfoPtr info, const TypeOps& type, std::vector<NodePtr> parents, Shipped<ZipKernel> kernel,
                 bool by_key, std::int64_t batch = 0, Shipped<StateMaker> state = {});
/// `twice`: on a cluster it is kept on two executors, because it cannot be made again when it is lost.
NodePtr make_cached(Engine& engine, NodePtr parent, Keep level, bool twice = false);
/// A block of a service (service.h), one partition, removed with the lease. Where it is lost it is made of `parent`,
/// which has one partition, too.
NodePtr make_kept_block(NodePtr parent, std::shared_ptr<BlockLease> lease);
/// Some partitions of the parent, which are all that is computed of it.
NodePtr make_chosen(OperatorInfoPtr info, NodePtr parent, std::vector<std::size_t> partitions);
/// Computes the parent and gives nothing.
NodePtr make_discard(OperatorInfoPtr info, NodePtr parent);

}  // namespace sluice::detail
