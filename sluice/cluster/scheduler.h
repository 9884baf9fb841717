// The driver's side of a cluster: who runs which task, and where everything lies.
//
// The engine's stores know what there is (ShuffleStore::put_elsewhere, BlockStore::put_elsewhere); here it is known
// where. Tasks of partition p run on the executor that has slot p, so that what a partition reads and its state are in
// one place; what they read of shuffles the executors fetch from one another. Each slot with state has a copy on
// another executor, which takes over when the first one is lost.
//
// Invariants:
//  C1. An executor is alive while its connection is: what came over another one is not listened to. It is given up
//      when nothing has been heard of it for `executor_timeout`.
//  C2. When an executor is lost, what lay there is missing in the engine's stores before the tasks that ran there are
//      said to be lost.
//  C3. A slot changes its executor between rounds only, and the state is taken over as of the last batch that is
//      complete: the running one is run again.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "sluice/cluster/channel.h"
#include "sluice/cluster/manager.h"
#include "sluice/cluster/messages.h"
#include "sluice/core/engine.h"

namespace sluice::detail {

struct ClusterOptions {
  std::size_t executors = 2;
  /// Of each executor.
  std::uint32_t cores = 1;
  std::uint64_t memory_bytes = std::uint64_t{1} << 30;
  std::string spill_directory;
  /// How often a failing task is tried, and how often a job is when executors are lost under it.
  unsigned task_tries = 4;
  /// Silence after which an executor is given up.
  Duration executor_timeout = std::chrono::seconds(1);
  /// How long is waited for an executor while there is none, and for all of them at the start.
  Duration start_time_max = std::chrono::seconds(30);
  /// Keep a second copy of state.
  bool copy_state = true;
};

/// See the head of this file, and TaskRunner. Threads: state is worked on by one at a time.
class ClusterScheduler final : public TaskRunner {
 public:
  /// Starts the executors and waits for them. Errors: SLU-212 they did not come in time.
  ClusterScheduler(Engine& engine, std::unique_ptr<ClusterManager> manager, const ClusterOptions& options);
  ~ClusterScheduler() override;

  std::vector<TaskOutcome> run(const std::vector<TaskProgram>& tasks, const TaskId& stage,
                               const std::atomic<bool>* cancelled) override;
  void reserve_cores(long cores) override;
  void close_shuffle(std::uint64_t shuffle) override;
  void remove_blocks(std::uint64_t owner) override;
  std::shared_ptr<StatePartition> make_state(const Shipped<StateMaker>& maker, std::size_t partition) override;
  void track_state() override;
  void completed(Time batch) override;
  bool has_state_elsewhere() const override { return true; }
  bool take_state_moved() override;
  Counters counters() const override { return {tasks_.load(), failed_attempts_.load()}; }

  /// Executors that are alive.
  std::size_t executors();
  /// The process of each.
  std::vector<std::int64_t> pids();

 private:
  friend class RemoteState;
  struct Handle;
  using HandlePtr = std::shared_ptr<Handle>;
  struct Round;
  struct Ticket;
  struct Call;
  struct Slot {
    ExecutorId owner = 0;
    ExecutorId copy = 0;
    /// The copy has to be told that it is the state now.
    bool promote = false;
    /// Nobody has the state.
    bool lost = false;
    /// Operations that have state here.
    std::map<std::uint64_t, Shipped<StateMaker>> states;
  };

  void stop();
  void accept();
  void serve(const std::shared_ptr<Channel>& channel);
  HandlePtr welcome(const std::shared_ptr<Channel>& channel);
  static void send(const HandlePtr& executor, std::string_view message);
  void tell_peers();
  void monitor();
  void lost(const HandlePtr& executor);
  void done(const HandlePtr& executor, TaskDone&& message);

  // With the lock held:
  Slot& slot_of(std::size_t partition);
  HandlePtr find(ExecutorId id) const;
  /// Of those that tasks are given to.
  std::vector<ExecutorId> ready() const;
  bool wait_for_executors(std::unique_lock<std::mutex>& lock, std::size_t count);
  void place(const TaskProgram& task, unsigned attempt, RunTask& message, ExecutorId& executor, TaskOutcome& outcome);

  void dispatch(const TaskProgram& program, const TaskId& stage, std::uint32_t task, unsigned attempt,
                const std::shared_ptr<Round>& round);
  void wait(Round& round, const std::atomic<bool>* cancelled);
  static bool is_final(const TaskOutcome& outcome);
  void adopt(const TaskProgram& task, TaskOutcome& outcome, ExecutorId executor);
  void promote_copies();
  void make_copies();
  void balance();
  void forget();

  /// The answer of an executor. Errors: SLU-211 it is lost before it answers, or says what is wrong.
  StateReply call(ExecutorId id, StateRequest request);
  // For RemoteState:
  std::pair<ExecutorId, ExecutorId> places_of(std::size_t partition);
  void add_state(const Shipped<StateMaker>& maker, std::size_t partition);
  void forget_state(std::uint64_t operation, std::size_t partition);
  std::int64_t completed_batch();

  Engine& engine_;
  Runtime& runtime_;
  const ClusterOptions options_;
  const std::string token_;
  std::unique_ptr<Listener> listener_;

  std::mutex mutex_;
  std::unique_ptr<Condition> changed_;
  bool stopping_ = false;
  ExecutorId last_id_ = 0;
  std::uint64_t last_number_ = 0;
  std::uint64_t peers_version_ = 0;
  std::map<ExecutorId, HandlePtr> executors_;
  std::list<std::shared_ptr<Channel>> channels_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::map<std::uint64_t, Ticket> tickets_;
  std::map<std::uint64_t, std::shared_ptr<Call>> calls_;
  std::map<std::uint64_t, std::vector<ExecutorId>> shuffle_places_;
  std::map<BlockId, ExecutorId> block_places_;
  std::vector<Slot> slots_;
  std::size_t reserved_cores_ = 0;
  Forget forget_;
  bool tracks_ = false;
  bool state_moved_ = false;
  std::int64_t completed_ = 0;
  /// Of the job that runs, how often executors were lost under it.
  std::map<std::uint64_t, unsigned> losses_;

  std::atomic<std::uint64_t> tasks_{0};
  std::atomic<std::uint64_t> failed_attempts_{0};
  std::unique_ptr<ClusterManager> manager_;
};

}  // namespace sluice::detail
