// The outside world of an engine: time, files, network, threads and chance, all from one object.
//
// Three implementations: `system_runtime()` (threads of this process and the system's clock), `HandRuntime` (the same
// threads, a clock turned by hand: testkit) and `Simulation` (one thread, virtual time, everything from one seed:
// testkit). Code above this layer blocks only in calls of this layer, and never while it holds a mutex other than the
// one it passes to `Condition::wait`. So the same engine runs on all three.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "sluice/runtime/clock.h"
#include "sluice/runtime/filesystem.h"
#include "sluice/runtime/random.h"
#include "sluice/runtime/transport.h"

namespace sluice {

/// A running thread (in the simulation: a fiber). Must be joined before it is destroyed.
class Thread {
 public:
  virtual ~Thread() = default;
  virtual void join() = 0;
};

/// A place to wait, as std::condition_variable. Spurious wake-ups happen; wait in a loop.
class Condition {
 public:
  virtual ~Condition() = default;
  virtual void wait(std::unique_lock<std::mutex>& lock) = 0;
  /// False when `deadline` was reached (by the runtime's clock) before a notification.
  virtual bool wait_until(std::unique_lock<std::mutex>& lock, Time deadline) = 0;
  virtual void notify_one() = 0;
  virtual void notify_all() = 0;
};

/// Runs tasks on a fixed number of cores, in no promised order.
class Executors {
 public:
  virtual ~Executors() = default;
  virtual std::size_t cores() const = 0;
  /// Runs `task` when a core is free. Tasks must not throw.
  virtual void launch(std::function<void()> task) = 0;
};

/// Everything outside the engine. Threads: all members are safe from all threads.
class Runtime {
 public:
  virtual ~Runtime() = default;
  virtual Clock& clock() = 0;
  virtual FileSystem& files() = 0;
  virtual Transport& transport() = 0;
  /// A thread of its own, for receivers and the driver. `body` must not throw.
  virtual std::unique_ptr<Thread> spawn(std::string name, std::function<void()> body) = 0;
  virtual std::unique_ptr<Condition> condition() = 0;
  /// A pool of `cores` workers, which ends its threads when destroyed (after the tasks launched so far).
  virtual std::unique_ptr<Executors> executors(std::size_t cores) = 0;
  /// A seed for a new `Random`: from the system, or from the simulation's seed.
  virtual std::uint64_t random_seed() = 0;
  /// Tells the processes apart that live one after the other on a simulated machine: what one of them left in static
  /// variables is nothing to the next. The real world has one.
  virtual std::uint64_t process() const { return 0; }

  /// Blocks for `duration` of the runtime's time. For retry delays of receivers; the engine itself waits on conditions.
  void wait_for(Duration duration);
};

/// The real world. One object a process, made at first use and never destroyed.
Runtime& system_runtime();

}  // namespace sluice
