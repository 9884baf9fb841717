// Named places at which a test may kill the process.
//
//     kill_point("driver.job_submitted");
//     kill_point(options.name, ".before_sync");   // "journal.before_sync", where the name is that of the object
//
// SLUICE_KILL=journal.before_sync:3 in the environment kills the process (SIGKILL) when it comes to that place for the
// third time; several places are separated by commas. In every build, so that what is tested is what is shipped;
// where nothing is armed a place costs one load of a flag. With SLUICE_KILL_LOG=FILE the process adds a line
// "PLACE PID" to that file before it dies: with several processes nobody else knows which one died where. Place names
// are listed in docs/kill_points.md, and checks/tidy.py compares that list with the calls, which therefore name their
// places by literals.
#pragma once

#include <atomic>
#include <functional>
#include <string_view>

namespace sluice {

namespace detail {
extern std::atomic<bool> any_kill_point_armed;
void at_kill_point(std::string_view owner, std::string_view place);
}  // namespace detail

/// Whether places do anything: for code that takes another way to reach one, such as a write cut in two.
inline bool kill_points_armed() { return detail::any_kill_point_armed.load(std::memory_order_relaxed); }

/// Dies at the place `owner` + `place` if so armed; the two are put together only where something is armed.
/// Threads: safe.
inline void kill_point(std::string_view owner, std::string_view place) {
  if (kill_points_armed()) [[unlikely]] {
    detail::at_kill_point(owner, place);
  }
}
/// The same for a place whose name is known as a whole.
inline void kill_point(std::string_view place) { kill_point({}, place); }

/// For tests inside the process (the simulation kills a simulated process): `hook` is called with the name of each
/// place that is passed, until it is replaced; an empty one takes it away. Places of the environment stay armed.
/// Threads: not while others pass places.
void set_kill_point_hook(std::function<void(std::string_view)> hook);

/// Arms the places of SLUICE_KILL in place of those armed so before. A program need not call this: it is done before
/// `main` in each that has a place.
/// Threads: not while others pass places. Errors: ends the process with status 2 for a value that is not
/// NAME:COUNT[,NAME:COUNT...] with counts from 1.
void arm_kill_points_from_environment();

}  // namespace sluice
