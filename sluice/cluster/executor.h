// A process that runs tasks for a driver, and keeps what they leave: shuffle output, cached partitions, state.
//
//     Executor executor(runtime, runtime.transport(), {.driver = address, .token = token, .listen = "127.0.0.1:0"});
//     executor.run();  // until the driver ends
//
// Other executors fetch buckets of shuffles from it, and send it the changes of state that it keeps a copy of.
//
// Invariants:
//  X1. What the driver has given up is not reported: it closes the connection, and everything goes through that.
//  X2. A task that has changed state is reported when the copy has the changes.
//  X3. A task that waits for others' output holds no thread, and ends as soon as it is cancelled.
//  X4. An executor that hears nothing of the driver for twice the time after which that has given it up ends as if the
//      connection had: over a network that is cut neither side is told.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "sluice/cluster/channel.h"
#include "sluice/cluster/log_lines.h"
#include "sluice/cluster/messages.h"
#include "sluice/cluster/peer_connections.h"
#include "sluice/cluster/service_keeper.h"
#include "sluice/cluster/state_keeper.h"
#include "sluice/core/stores.h"
#include "sluice/core/task_runner.h"

namespace sluice::detail {

struct ExecutorOptions {
  /// Where the driver is.
  std::string driver;
  /// See Hello.
  std::string token;
  /// Where it listens for other executors; port 0: the system chooses one.
  std::string listen;
  std::uint32_t cores = 1;
  /// Half of it is for cached partitions and blocks, half for shuffle output; beyond it they are on disk. Two fixed
  /// halves, so that neither pushes the other out.
  std::uint64_t memory_bytes = std::uint64_t{1} << 30;
  std::string spill_directory;
  /// Of shuffle output that other executors fetch, or that is on disk.
  Compression compression = Compression::none;
  /// Of the sockets of all; removed by executors that outlive their parent. Empty: there is none.
  std::string socket_directory{};
  /// What its machine is called. Empty: as it calls itself.
  std::string host{};
  /// Where others reach it, when that is not where it listens. Empty: it is.
  std::string announce{};
};

/// See the head of this file. Threads: `close` from anywhere, the rest from one.
class Executor {
 public:
  /// `transport` outlives it. `states`: what an executor before it in this process has kept; null: nothing.
  Executor(Runtime& runtime, Transport& transport, ExecutorOptions options,
           std::shared_ptr<StateKeeper> states = nullptr);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  /// Registers with the driver and works until that shuts it down (true) or the connection ends. Called once.
  /// Errors: SLU-402 the driver cannot be reached; SLU-413 it refuses this executor, and why.
  bool run();
  /// For the next one, when `run` has returned false or thrown: state and blocks that wait for the next driver. Null:
  /// there are none.
  std::shared_ptr<StateKeeper> keep_state();
  /// Ends `run` at once, as if the process had been killed.
  void close();
  /// Asks the driver to let it go. It works on until all that it has lies elsewhere; then `run` returns true. False
  /// when there is no driver.
  bool leave();
  /// What this process prints goes to the driver, too: what a task has printed before the driver hears that it is done.
  /// Before `run`; `logs` outlives it.
  void send_lines_of(LogQueue& logs) { logs_ = &logs; }
  /// Gets a broadcast value from the driver: see set_shared_value_loader. Waits; called by tasks.
  std::string load_shared_value(std::uint64_t id);

 private:
  struct Task;
  using TaskPtr = std::shared_ptr<Task>;

  void register_with_driver(const std::string& address);
  /// True when it has said that this is the end.
  bool read_from_driver();
  void handle(std::string_view message);
  void handle_state(const StateRequest& request);
  std::optional<KeepBlock> block_message(const BlockId& block, Keep level);
  void beat();
  void tell_driver(std::string_view message);
  void send_lines();

  void launch(std::function<void()> work);
  void start(RunTask&& message);
  void prepare(const TaskPtr& task);
  void ask_for_buckets(const TaskPtr& task);
  void await_own(const TaskPtr& task, std::uint64_t shuffle, const std::vector<std::uint32_t>& maps);
  void fetch(const TaskPtr& task, ExecutorId from, const Fetch& question);
  template <class Answer, class Question, class Keep>
  void ask_for(const TaskPtr& task, ExecutorId from, const Question& question, Keep keep);
  void answer_came(const TaskPtr& task);
  void cancel(const Cancel& cancel);
  void execute(const TaskPtr& task);
  static std::map<BlockId, RestedPtr> fetched_blocks(const Task& task);
  BucketsByTarget gather_buckets(const TaskPtr& task);
  void send_copies(const TaskPtr& task, TaskDone&& done);
  void report(const TaskPtr& task, TaskDone&& done);
  void report_lost(const TaskPtr& task, ExecutorId place);
  void report_output_lost(const TaskPtr& task);

  /// Of questions of other executors.
  void answer(ExecutorId from, std::string_view message, const PeerConnections::Reply& reply);
  Fetched buckets_for(const Fetch& fetch);

  using Told = std::function<void(bool has_come)>;
  void await_output(std::uint64_t shuffle, const std::vector<std::uint32_t>& maps, Told told);
  void tell_of_output(const TaskProgram& program);
  void give_up_waiting(Time since);

  Runtime& runtime_;
  Transport& transport_;
  const ExecutorOptions options_;
  Duration heartbeat_{};
  /// When the driver was heard of last.
  std::atomic<Time> heard_{Time{}};
  const std::shared_ptr<StateKeeper> states_;
  BlockStore& blocks_;
  ShuffleStore shuffles_;
  /// Both are set under the mutex, in `run`.
  std::unique_ptr<Connector> to_driver_;
  std::unique_ptr<Channel> driver_;
  LogQueue* logs_ = nullptr;
  ExecutorId id_ = 0;
  std::uint64_t hash_seed_ = 0;
  bool check_views_ = false;

  std::mutex mutex_;
  std::unique_ptr<Condition> changed_;
  bool closed_ = false;
  /// The driver has it.
  bool is_member_ = false;
  /// Broadcast values that have been asked for; nullopt while they have not come.
  std::map<std::uint64_t, std::optional<Shared>> shared_;
  std::map<std::uint64_t, TaskPtr> tasks_;
  /// Shuffle output that is to be made here, and who waits for it.
  struct Awaited {
    std::uint64_t shuffle = 0;
    std::vector<std::uint32_t> maps;
    Time since{};
    Told told;
  };
  std::list<Awaited> awaited_;

  PeerConnections peers_;
  ServiceKeeper services_;
  std::unique_ptr<Executors> pool_;
};

}  // namespace sluice::detail
