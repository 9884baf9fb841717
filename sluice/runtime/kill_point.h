// Named places at which a test may kill the process.
//
//     kill_point("journal.before_sync");
//
// SLUICE_KILL=journal.before_sync:3 in the environment kills the process (SIGKILL) when it comes to that place for the
// third time; several places are separated by commas. In every build, so that what is tested is what is shipped;
// where nothing is armed a place costs one load of a flag. Place names are listed in docs/kill_points.md.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace sluice {

namespace detail {
extern std::atomic<bool> kill_points_armed;
void at_kill_point(const char* name);
}  // namespace detail

/// Dies here if so armed. Threads: safe.
inline void kill_point(const char* name) {
  if (detail::kill_points_armed.load(std::memory_order_relaxed)) [[unlikely]] {
    detail::at_kill_point(name);
  }
}

/// For tests inside the process (the simulation kills a simulated process): `hook` is called with the name of each
/// place that is passed, until it is replaced; an empty one disarms. Threads: not while others pass places.
void set_kill_point_hook(std::function<void(const char*)> hook);

/// Arms the places of SLUICE_KILL. Called when the program starts.
/// Errors: ends the process with status 2 for a value that is not NAME:COUNT[,NAME:COUNT...].
void arm_kill_points_from_environment();

}  // namespace sluice
