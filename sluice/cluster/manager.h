// Where executors come from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "sluice/cluster/executor.h"
#include "sluice/cluster/network.h"

namespace sluice::detail {

/// Runs executors somewhere: threads, processes of this host, a cluster. Who schedules tasks knows no more of it.
/// Threads: one.
class ClusterManager {
 public:
  /// Ends all executors that it has started.
  virtual ~ClusterManager() = default;
  /// Sees to it that so many executors run from now on; one that ends is started again, as a new one. When called again
  /// with another count, more are started, or those that end next are not started again. `each.listen` is set here.
  /// Errors: those of the manager, when executors cannot be started at all; only the first call has any.
  virtual void run_executors(const ExecutorOptions& each, std::size_t count) = 0;
  /// An executor in that process has registered under that number. Called while a lock is held: must not wait.
  virtual void came(ExecutorId id, std::int64_t pid) {
    static_cast<void>(id);
    static_cast<void>(pid);
  }
  /// What it does to have them run, in words for people who miss them; empty when there is nothing to say.
  virtual std::string waiting_for() { return {}; }
  /// Where the driver has to listen so that they reach it, and how.
  virtual Address driver_address() = 0;
  virtual const ClusterNetwork& network() const = 0;
};

/// Processes of this program on this host, which speak over unix sockets in a directory of their own. Each ends when
/// this process does. What they print is on this process's standard error, line by line, behind the executor's number.
std::unique_ptr<ClusterManager> make_local_processes(Runtime& runtime);

/// Executors that somebody starts on any host, with `run_started_executor`.
std::unique_ptr<ClusterManager> make_started_elsewhere(ClusterNetwork network, Address listen);

/// Threads of this process, or of a simulation: for tests. Number n, from 0 on, is on a host that is called "host-n".
class ThreadExecutors : public ClusterManager {
 public:
  explicit ThreadExecutors(Runtime& runtime);
  /// Those of a driver somewhere else, which listens where they are told (`each.driver`). They outlive it, and wait for
  /// the next one with what they have.
  ThreadExecutors(Runtime& runtime, ClusterNetwork network);
  ~ThreadExecutors() override;
  void run_executors(const ExecutorOptions& each, std::size_t count) override;
  Address driver_address() override { return Address::tcp("127.0.0.1", 0); }
  const ClusterNetwork& network() const override { return network_; }
  /// Lets the executor of that number, from 0 on, go. Another takes its place.
  void leave(std::size_t number);
  /// Ends the executor of that number, from 0 on, as if it had been killed. Another takes its place.
  void kill(std::size_t number);
  /// Its network is cut for so long.
  void cut_off(std::size_t number, Duration time);

 private:
  struct Place {
    std::shared_ptr<Executor> executor;
    bool is_leaving = false;
    bool is_killed = false;
    Time away_until{};
    std::unique_ptr<Thread> thread;
  };
  void run(std::size_t number, const ExecutorOptions& options);

  Runtime& runtime_;
  const ClusterNetwork network_;
  /// The driver does not own them.
  const bool are_outside_;
  std::mutex mutex_;
  std::unique_ptr<Condition> stopped_;
  bool stopping_ = false;
  std::size_t wanted_ = 0;
  std::size_t running_ = 0;
  std::vector<Place> places_;
};

/// In a process made by make_local_processes: runs an executor and never returns.
void run_executor_if_child(int argc, char** argv);

/// Runs an executor of a driver that is reached over the network, and ends the process with it: status 0 when the
/// driver has shut it down, 1 when it refuses this process. While the driver cannot be reached it is tried again, for
/// `grace`; then the status is 3. When the driver is lost it waits for the next one: with the state that it has, which
/// a driver of the same application can go on with; where there is none the process starts over. What it prints goes to
/// the driver, too (log_lines.h). `options.driver` may be @FILE: the address is the first line of that file, as soon as
/// it is there with its end; when another one is there (looked at every 0.1 s), the executor leaves the driver that it
/// has, as if that were lost, and goes there.
[[noreturn]] void run_started_executor(const ClusterNetwork& network, ExecutorOptions options, Duration grace);

}  // namespace sluice::detail
