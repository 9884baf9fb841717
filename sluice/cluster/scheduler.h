// Tasks on executors: who runs which, and where lies what they leave.
//
// Executors are given all rounds of a job at once (task_group.h): none of them waits for the driver between two.
//
// The engine's stores know what there is (ShuffleStore::put_elsewhere, BlockStore::put_elsewhere), here it is known
// where. Tasks run where their slot is (slots.h); what they read of shuffles the executors fetch from one another.
//
// Invariants:
//  C1. When an executor is lost, what lay there is missing in the engine's stores before the tasks that ran there are
//      said to be lost.
//      The same for shuffle output that an executor does not have any more.
//  C2. What a task has left is adopted only while its executor is alive.
//  C3. Of attempts at a task that run at the same time one counts (T1 in task_group.h). Tasks that change state have
//  one.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sluice/cluster/manager.h"
#include "sluice/cluster/members.h"
#include "sluice/cluster/messages.h"
#include "sluice/cluster/scaling.h"
#include "sluice/cluster/service_places.h"
#include "sluice/cluster/slots.h"
#include "sluice/cluster/task_group.h"
#include "sluice/core/engine.h"

namespace sluice::detail {

struct ClusterOptions {
  std::size_t executors = 2;
  /// Of each executor; 0: they say how many they have.
  std::uint32_t cores = 1;
  std::uint64_t memory_bytes = std::uint64_t{1} << 30;
  std::string spill_directory;
  /// Of shuffle output.
  Compression compression = Compression::none;
  /// How often a failing task is tried, and how often a job is when executors, or shuffle output that their disks have
  /// damaged, are lost under it.
  unsigned task_tries = 4;
  /// Silence after which an executor is given up.
  Duration executor_timeout = std::chrono::seconds(1);
  /// How long is waited for an executor while there is none, and for all of them at the start.
  Duration start_time_max = std::chrono::seconds(30);
  /// Keep a second copy of state.
  bool copy_state = true;
  /// Keep a second copy of the blocks of receivers.
  bool copy_blocks = true;
  ScalingOptions scaling{};
  /// Tasks that take much longer than others of their round are given to another executor, too.
  bool speculation = false;
  /// Those that have run for less are not slow.
  Duration speculation_min = std::chrono::milliseconds(100);
};

/// See the head of this file, and TaskRunner. Threads: state is worked on by one at a time.
class ClusterScheduler final : public TaskRunner {
 public:
  /// Starts the executors and waits for them. Errors: SLU-212 they did not come in time.
  ClusterScheduler(Engine& engine, std::unique_ptr<ClusterManager> manager, const ClusterOptions& options);
  ~ClusterScheduler() override;

  Outcomes run(const Rounds& rounds, const TaskId& stage, const std::atomic<bool>* cancelled) override;
  void reserve_cores(long cores) override;
  void close_shuffle(std::uint64_t shuffle) override;
  void remove_blocks(std::uint64_t owner) override;
  std::shared_ptr<StatePartition> make_state(const Shipped<StateMaker>& maker, std::size_t partition) override;
  std::optional<std::set<std::size_t>> take_up_state(const std::string& application, std::uint64_t epoch,
                                                     const WantedStates& wanted) override;
  void track_state() override {}  // executors always do
  void completed(Time batch, Duration took, Duration interval) override;
  bool has_state_elsewhere() const override { return true; }
  bool take_state_moved() override { return slots_->take_moved(); }
  bool runs_services() const override { return true; }
  std::unique_ptr<RunningService> start_service(const Shipped<ServiceMaker>& maker, const std::string& preferred_host,
                                                ServiceEvents events) override {
    return services_->start(engine_.next_id(), maker, preferred_host, std::move(events));
  }
  Counters counters() const override { return {tasks_.load(), failed_attempts_.load()}; }

  Members& members() { return *members_; }
  ClusterManager& manager() { return *manager_; }

 private:
  using Cancelled = const std::atomic<bool>*;
  /// A task that an executor has been given.
  struct Ticket {
    std::shared_ptr<TaskGroup> group;
    std::uint32_t task = 0;
    unsigned attempt = 0;
    GivenTask given;
  };

  /// Tasks that have been placed.
  struct ToSend {
    std::map<ExecutorId, RunTasks> tasks;
    std::size_t bytes = 0;
  };

  void on_message(ExecutorId executor, std::string_view message);
  void on_lost(ExecutorId executor);
  Error no_executors(const std::string& how_many);
  void on_service_block(const BlockId& block, ExecutorId executor, ExecutorId copy);
  void place_block(const BlockId& block, std::vector<ExecutorId> executors);
  void lose_block(const BlockId& block);
  Outcomes run_group(std::span<const std::vector<TaskProgram>> rounds, const TaskId& stage, Cancelled cancelled);
  void dispatch(const std::shared_ptr<TaskGroup>& group, const std::vector<std::uint32_t>& todo);
  void give(const std::shared_ptr<TaskGroup>& group, std::uint32_t task, TaskOutcome& outcome, ToSend& to_send);
  void send(ToSend& to_send);
  ExecutorId place(const TaskGroup& group, std::uint32_t task, ExecutorId avoided, RunTask& message,
                   TaskOutcome& outcome);
  ShuffleAt where_is(std::uint64_t shuffle, const TaskGroup& group);
  bool ended(std::uint64_t ticket, TaskOutcome&& outcome);
  void blame(const std::vector<ExecutorId>& failed_at, ExecutorId succeeded_at);
  void await_executor();
  void wait(const std::shared_ptr<TaskGroup>& group, Cancelled cancelled);
  std::vector<std::uint32_t> slow_tasks(TaskGroup& group);
  ExecutorId another(ExecutorId executor, std::size_t partition);
  void adopt(const TaskProgram& task, TaskOutcome& outcome, const GivenTask& given);
  void lose_output(const OutputLost& lost);
  void give_up_lost(TaskGroup& group);
  void copy_blocks();
  void let_go();
  void scale();
  void forget();

  Engine& engine_;
  Runtime& runtime_;
  const ClusterOptions options_;
  ExecutorOptions each_;
  Scaling scaling_;
  /// Executors that there are to be.
  std::size_t wanted_;

  std::mutex mutex_;
  std::unique_ptr<Condition> changed_;
  std::uint64_t last_ticket_ = 0;
  std::map<std::uint64_t, Ticket> tickets_;
  /// Attempts that others were faster than, or that are taken back.
  std::vector<std::pair<ExecutorId, std::uint64_t>> to_cancel_;
  /// How many of them each executor has.
  std::map<ExecutorId, std::size_t> loads_;
  /// How often tasks have failed there that succeeded elsewhere.
  std::map<ExecutorId, unsigned> blamed_;
  /// By map partition; 0: it is missing.
  std::map<std::uint64_t, std::vector<ExecutorId>> shuffle_places_;
  struct BlockPlaces {
    std::vector<ExecutorId> executors;
    bool twice = false;
    /// It cannot be made again.
    bool is_needed = false;
  };
  std::map<BlockId, BlockPlaces> block_places_;
  /// A block that is kept twice lies on one executor only, perhaps.
  bool lacks_copies_ = false;
  std::size_t reserved_cores_ = 0;
  std::uint32_t lost_executors_ = 0;
  /// How often executors, or shuffle output that was there, were lost under a job.
  struct Losses {
    unsigned executors = 0;
    unsigned output = 0;
  };
  std::map<std::uint64_t, Losses> losses_;
  Forget forget_;

  std::atomic<std::uint64_t> tasks_{0};
  std::atomic<std::uint64_t> failed_attempts_{0};
  // Ended in this order: no executor, nobody who listens to one, what they are told.
  std::unique_ptr<Slots> slots_;
  std::unique_ptr<ServicePlaces> services_;
  std::unique_ptr<Members> members_;
  std::unique_ptr<ClusterManager> manager_;
};

}  // namespace sluice::detail
