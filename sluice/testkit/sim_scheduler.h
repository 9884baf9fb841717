// The fibers of a simulation, its virtual time, its chance, and the order in which all goes on.
//
// Invariants:
// S1. A fiber is in exactly one of these: `ready_`; waiting in at most one WaitList and at most once in `deadlines_`;
//     running; ended.
// S2. No decision depends on an address: fibers are known by number, ties are broken by number.
// S3. A "life" is a process from its start to its death. What was made in an earlier life (wait lists, open files,
//     connections, workers) is dead: it is never waited for and never woken.
// S4. A life has one process, and others that are run beside it; each fiber is of the process of the one that started
//     it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/runtime/clock.h"
#include "sluice/runtime/fiber.h"
#include "sluice/runtime/random.h"
#include "sluice/testkit/simulation.h"

namespace sluice::testing::detail {

struct SimFiber;

/// Fibers that wait for the same thing. It must outlive those that wait, unless they die with their process.
class WaitList {
 public:
  /// `what` ends the sentence "NAME waits for ...".
  explicit WaitList(std::string what) : what_(std::move(what)) {}
  WaitList(const WaitList&) = delete;
  WaitList& operator=(const WaitList&) = delete;

 private:
  friend class Scheduler;
  std::string what_;
  std::vector<SimFiber*> waiting_;
  std::uint64_t life_ = 0;
};

/// One thread of the simulated process.
struct SimFiber {
  SimFiber(std::uint64_t number_, std::uint64_t process_, std::string name_, std::function<void()> body)
      : number(number_),
        process(process_),
        name(std::move(name_)),
        fiber(std::move(body)),
        joiners("the end of " + name) {}

  const std::uint64_t number;
  const std::uint64_t process;
  const std::string name;
  sluice::detail::Fiber fiber;
  WaitList joiners;
  WaitList* waits_in = nullptr;
  Time deadline = Time::max();
  bool may_wake_spuriously = false;
  bool timed_out = false;
};

/// See the head of this file. Threads: everything happens on one thread.
class Scheduler final : public Clock {
 public:
  Scheduler(std::uint64_t seed, const SimulationOptions& options);
  ~Scheduler() override;

  Time now() const override { return now_; }
  const SimulationOptions& options() const { return options_; }
  /// All chance of the simulation itself.
  Random& random() { return random_; }
  /// Puts a decision into the trace.
  void trace(std::uint64_t value) { trace_hash_ = Random(trace_hash_ ^ value).next(); }
  void trace(std::string_view text);
  std::uint64_t trace_hash() const { return trace_hash_; }
  std::uint64_t steps() const { return steps_; }
  /// The number of this life (S3).
  std::uint64_t life() const { return life_; }
  /// The number of the current fiber's process, which no other of any simulation in this process has; no part of any
  /// decision.
  std::uint64_t process() const { return current_ != nullptr ? current_->process : process_; }
  /// See Simulation::run_process. `on_death` is told of those that are killed.
  bool run_process(const std::function<void()>& body, std::optional<std::uint64_t> killed_after,
                   const std::function<void(std::uint64_t process)>& on_death);

  void run(std::function<void()> body);
  void crash_after(std::uint64_t steps) { crash_step_ = steps_ + steps; }
  /// The process dies here. Does not return; throws SimulatedCrash when no fiber runs.
  [[noreturn]] void crash(std::string reason);

  /// Makes a fiber, ready to run.
  std::shared_ptr<SimFiber> start(std::string name, std::function<void()> body);
  /// Waits until `fiber` has ended.
  void join(SimFiber& fiber);
  /// Drops a fiber as if its process had been killed.
  void abandon(SimFiber& fiber);
  /// Whether a fiber of the simulation runs.
  bool in_fiber() const { return current_ != nullptr; }

  /// Lets others run. Does nothing outside of `run`.
  void pause();
  /// Waits until woken or until `deadline`; false for the latter. Spurious wake-ups happen if allowed.
  bool park(WaitList& list, Time deadline, bool may_wake_spuriously = false);
  /// Waits until `time`.
  void sleep_until(Time time);
  void wake_one(WaitList& list);
  void wake_all(WaitList& list);

 private:
  void step();
  void kill_beside();
  std::shared_ptr<SimFiber> start(std::string name, std::function<void()> body, std::uint64_t process);
  void wake_due();
  void wake_someone_spuriously();
  void make_ready(SimFiber& fiber, bool timed_out);
  void give_way();
  void renew(WaitList& list) const;
  void end_life();
  void remove(SimFiber& fiber);
  std::string who_waits() const;

  const SimulationOptions options_;
  Random random_;
  // Half of the seeds have none, since a spurious wake-up mends a lost one and so hides it.
  const bool spurious_wakeups_;
  Time now_;
  std::uint64_t trace_hash_ = 0;
  std::uint64_t steps_ = 0;
  std::uint64_t crash_step_ = UINT64_MAX;
  std::uint64_t life_ = 1;
  std::uint64_t process_ = next_process();
  static std::uint64_t next_process();
  std::uint64_t fiber_count_ = 0;
  bool running_ = false;
  /// The process that is run beside the first, and when it is killed.
  std::uint64_t beside_ = 0;
  std::uint64_t beside_killed_step_ = UINT64_MAX;
  std::string crash_reason_;
  SimFiber* current_ = nullptr;
  std::vector<std::shared_ptr<SimFiber>> fibers_;  // those that have not ended, by number
  std::vector<SimFiber*> ready_;
  std::map<std::pair<Time, std::uint64_t>, SimFiber*> deadlines_;
  WaitList sleepers_{"a point in time"};
};

}  // namespace sluice::testing::detail
