// A whole engine in one thread, on virtual time, from one seed.
//
//     sluice::testing::Simulation sim(seed);
//     sim.run([&] { ... any code that uses sim as its Runtime ... });
//     sim.trace_hash();   // equal for equal seeds
//
// Threads and tasks are fibers; which runnable one goes next is drawn from the seed. When none is runnable, virtual
// time jumps to the next deadline. The disk keeps what was not synced in a cache of its own, and `crash_disk()` drops
// or keeps each unsynced write, rename, creation and removal by chance, in any order the file system may choose
// (per file: a prefix of its unsynced writes, the last one perhaps torn: cut, or filled with zeros; of later ones in
// the middle of the file any). Connections deliver after a random delay in random pieces, and can be cut.
//
// Fibers take turns in every call that may wait: Condition::wait, Thread::join, Executors::help, and all of File,
// FileSystem, Connection, Listener and Transport but `close`. A mutex held across one (other than the one passed
// to Condition::wait) would block the only thread for ever, and thread_local variables are shared by all fibers. Paths
// are taken from "/"; there are no links.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "sluice/runtime/runtime.h"

namespace sluice::testing {

/// Faults that the simulation draws from its seed. Probabilities are per call.
struct SimulationOptions {
  /// Longest delay of a message between two ends of a connection.
  Duration message_delay_max = std::chrono::milliseconds(5);
  /// A connection is reset at a read or write.
  double connection_cut = 0;
  /// A write to a file fails with SLU-401 (disk full), nothing or a prefix of it written.
  double write_failure = 0;
  /// A sync fails. The real file system ends the process; here `SimulatedCrash` is thrown out of `run`.
  double sync_failure = 0;
  /// Longest virtual time that a fiber takes from one switch to the next. 0: time passes only while all wait.
  Duration step_time_max{0};
  /// Virtual time at the beginning.
  Time start = Time(std::chrono::seconds(1'700'000'000));
};

/// Thrown out of `Simulation::run` when no fiber can ever run again; the text lists who waits.
struct SimulationStuck : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Thrown out of `Simulation::run` when the process was killed: by `crash_after` or a failed sync. Nothing that its
/// fibers held is destroyed, as nothing is when a process dies; that memory is lost to the test.
struct SimulatedCrash : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// See the head of this file. Threads: everything happens on the thread that calls `run`.
class Simulation : public Runtime {
 public:
  explicit Simulation(std::uint64_t seed, SimulationOptions options = {});
  ~Simulation() override;

  /// Runs `body` as the first fiber until it ends; rethrows what it threw. Fibers that it spawned must have been joined
  /// by then. May be called again: the same disk, the clock goes on.
  ///
  /// Errors: SimulationStuck; SimulatedCrash; what the body of another thread threw; std::logic_error naming the fibers
  /// that were still alive at the end of `body`. In all these cases the fibers left are dropped like those of a killed
  /// process, and their files and connections are closed.
  void run(std::function<void()> body);
  /// Kills the process after that many more steps (a step is one fiber's way from a call that may wait to the next):
  /// `run` throws SimulatedCrash. So a test that tries 1, 2, 3... kills at every instant.
  void crash_after(std::uint64_t steps);
  /// Runs `body` as a process of its own beside the current one, which goes on, and waits for its end. With
  /// `killed_after` it is killed after that many steps (of all fibers), unless it has ended before: its fibers are
  /// dropped and its connections closed; then false. One at a time.
  bool run_process(const std::function<void()>& body, std::optional<std::uint64_t> killed_after);
  /// Steps so far.
  std::uint64_t steps() const;
  /// Loses what the disk may lose when the machine stops now. Open files become invalid.
  void crash_disk();
  /// Lets the current fiber wait while others run, as real threads would be interrupted anywhere.
  void pause();
  /// Hash of every scheduling decision, message and disk operation so far.
  std::uint64_t trace_hash() const;
  std::uint64_t seed() const;
  /// A number for the code under test: "misbehave here?"
  Random& random();

  Clock& clock() override;
  FileSystem& files() override;
  Transport& transport() override;
  std::unique_ptr<Thread> spawn(std::string name, std::function<void()> body) override;
  std::unique_ptr<Condition> condition() override;
  std::unique_ptr<Executors> executors(std::size_t cores) override;
  std::uint64_t random_seed() override;
  std::uint64_t process() const override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sluice::testing
