// A process that runs tasks for a driver, and keeps what they leave: shuffle output, cached partitions, state.
//
//     Executor executor(runtime, {.driver = address, .token = token, .listen = Address::tcp("127.0.0.1", 0)});
//     executor.run();  // until the driver ends
//
// Other executors fetch buckets of shuffles from it, and send it the changes of state that it keeps a copy of.
//
// Invariants:
//  X1. What the driver has given up is not reported: it closes the connection, and everything goes through that.
//  X2. A copy of state is one batch behind: changes of a batch wait until those of the next one come, or the driver
//      says that the batch is complete. So a batch can be run again on it.
//  X3. A task that has changed state is reported when the copy has the changes.
//  X4. Who reads from the driver or from another executor's answers never waits for anybody to read what it writes,
//      but the driver, which always reads.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "sluice/cluster/channel.h"
#include "sluice/cluster/messages.h"
#include "sluice/core/stores.h"

namespace sluice::detail {

struct ExecutorOptions {
  /// Where the driver is.
  std::string driver;
  /// See Hello.
  std::string token;
  /// Where other executors are to reach it; port 0: the system chooses one.
  std::string listen;
  std::uint32_t cores = 1;
  std::uint64_t memory_bytes = std::uint64_t{1} << 30;
  std::string spill_directory;
  /// Time between two signs of life.
  Duration heartbeat = std::chrono::milliseconds(200);
};

/// See the head of this file. Threads: `close` from anywhere, the rest from one.
class Executor {
 public:
  Executor(Runtime& runtime, ExecutorOptions options);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  /// Registers with the driver and works until that shuts it down or the connection ends.
  /// Errors: SLU-402 the driver cannot be reached; SLU-413 it refuses this executor, and why.
  void run();
  /// Ends `run` at once, as if the process had been killed.
  void close();

 private:
  struct Task;
  struct Link;
  struct Served;
  /// What is kept of a partition whose state lies elsewhere (X2).
  struct Copy {
    std::shared_ptr<StatePartition> state;
    std::int64_t waiting_batch = 0;
    std::vector<StateBlock> waiting;
  };
  using StateKey = std::pair<std::uint64_t, std::uint32_t>;
  using TaskPtr = std::shared_ptr<Task>;

  void join_threads();
  void launch(std::function<void()> work);
  void register_with_driver(const std::string& address);
  void read_from_driver();
  void beat();
  void accept();
  void serve(const std::shared_ptr<Served>& served);
  std::string answer(std::string_view message);

  void set_peers(Peers peers);
  void start(RunTask&& message);
  void prepare(const TaskPtr& task);
  void fetch(const TaskPtr& task, ExecutorId from, std::uint64_t shuffle, std::uint32_t target,
             std::vector<std::uint32_t> maps);
  void execute(const TaskPtr& task);
  void copy_changes(const TaskPtr& task, TaskDone done);
  void report(const TaskPtr& task, const TaskDone& done);
  void place_lost(const TaskPtr& task, ExecutorId place);
  void tell_driver(std::string_view message);

  StateReply handle(const StateRequest& request, bool& later);
  void drop_frozen(const StateKey& key, StatePartition& state);
  void change_role(const StateRequest& request);
  void send_whole(const StateRequest& request);
  std::shared_ptr<StatePartition> state_for(const StateRequest& request);
  void take_changes(StateChanges&& changes);
  void forget_states(const std::vector<StateKey>& states);
  static void settle(Copy& copy, std::int64_t batch);

  /// The connection to another executor. Errors: SLU-402, SLU-413.
  std::shared_ptr<Link> link_to(ExecutorId id);
  /// `answered` gets the answer, or nullopt when the connection ends before; on any thread.
  using Answered = std::function<void(std::optional<std::string_view>)>;
  template <class M>
  void ask(ExecutorId id, M message, Answered answered);
  void read_answers(const std::shared_ptr<Link>& link);

  Runtime& runtime_;
  const ExecutorOptions options_;
  BlockStore blocks_;
  ShuffleStore shuffles_;
  StateStore states_;
  std::unique_ptr<Channel> driver_;
  std::unique_ptr<Listener> listener_;
  ExecutorId id_ = 0;
  std::uint64_t hash_seed_ = 0;
  bool check_views_ = false;

  std::mutex mutex_;
  std::unique_ptr<Condition> changed_;
  bool closed_ = false;
  std::uint64_t peers_version_ = 0;
  std::map<ExecutorId, std::string> peers_;
  std::map<ExecutorId, std::shared_ptr<Link>> links_;
  std::list<std::shared_ptr<Served>> served_;
  /// Of all links and connections served there ever were: joined at the end.
  std::vector<std::unique_ptr<Thread>> threads_;
  std::map<std::uint64_t, TaskPtr> tasks_;
  std::map<std::uint64_t, Shipped<ShuffleKernel>> kernels_;
  std::uint64_t last_request_ = 0;

  std::mutex copies_mutex_;
  std::map<StateKey, Copy> copies_;
  /// The request that has frozen a state or copy, until that is dropped.
  std::map<StateKey, std::int64_t> frozen_;
  bool tracks_ = false;

  std::unique_ptr<Executors> pool_;
};

}  // namespace sluice::detail
