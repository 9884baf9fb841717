// A simulated machine on which a program is killed and started again, until it has done its work.
//
//     MortalMachine machine(seed);
//     for (bool done = false; !done;) {
//       machine.kill_at_point(1 + random.below(20));
//       done = machine.run([&] { live(machine.sim); }) == MortalMachine::End::done;
//       if (!done && random.chance(0.7)) machine.sim.crash_disk();
//     }
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/kill_point.h"
#include "sluice/runtime/process.h"
#include "sluice/testkit/faulty_filesystem.h"
#include "sluice/testkit/simulation.h"

namespace sluice::testing {

/// How a test ends the lives of its program.
enum class Ending {
  at_any_step,
  at_a_kill_point,
  /// The disk fails: the process ends, by itself or because a sync failed.
  of_the_disk,
  /// Executors of the program are killed, and the machine at times.
  of_executors,
  /// The driver is killed, and its executors go on.
  of_the_driver,
};

/// See the head of this file. Threads: one.
class MortalMachine {
 public:
  explicit MortalMachine(std::uint64_t seed, const SimulationOptions& options = {})
      : sim(seed, options), disk(sim.files()), on_faulty_disk(sim, disk) {
    disk.on_failed_sync([this](const std::string&) { die(); });
  }
  MortalMachine(const MortalMachine&) = delete;
  MortalMachine& operator=(const MortalMachine&) = delete;

  Simulation sim;
  /// The disk of `on_faulty_disk`, to be told what fails. A sync that fails kills the process.
  FaultyFileSystem disk;
  /// What a program runs on that is to meet those faults; one that runs on `sim` does not.
  FaultyRuntime on_faulty_disk;

  /// In the next `run`, kills the process when it passes a kill point for the `passes`-th time, of those that `counts`
  /// is true for.
  void kill_at_point(
      std::uint64_t passes, std::function<bool(std::string_view)> counts = [](std::string_view) { return true; }) {
    set_kill_point_hook([this, passes, counts = std::move(counts)](std::string_view place) mutable {
      if (counts(place) && --passes == 0) die();
    });
  }

  /// How a run of the program came to its end.
  enum class End { done, killed, disk_failed };
  /// Runs the program as the first fiber of the simulation. `disk_failed`: it ended with an error that came of what
  /// `disk` was told. Errors: all others of the program; SimulationStuck.
  End run(const std::function<void()>& program) {
    struct Unhook {
      ~Unhook() { set_kill_point_hook({}); }
    } const unhook;
    try {
      sim.run(program);
      return End::done;
    } catch (const SimulatedCrash&) {
      return End::killed;
    } catch (const Error& error) {
      if (std::string_view(error.what()).find("a fault of the test's script") == std::string_view::npos) throw;
      return End::disk_failed;
    }
  }

 private:
  void die() {
    sim.crash_after(0);
    sim.pause();
  }
};

/// The seeds from `first` to before `end`.
struct SeedRange {
  std::uint64_t first;
  std::uint64_t end;
};
/// `count` seeds from 1 on, unless SLUICE_SIM_SEEDS says another number and SLUICE_SIM_FIRST another first one.
inline SeedRange seeds_to_run(std::uint64_t count) {
  const auto number = [](const char* variable, std::uint64_t otherwise) {
    const std::optional<std::string> text = environment(variable);
    return text.has_value() ? std::stoull(*text) : otherwise;
  };
  const std::uint64_t first = number("SLUICE_SIM_FIRST", 1);
  return {first, first + number("SLUICE_SIM_SEEDS", count)};
}

}  // namespace sluice::testing
