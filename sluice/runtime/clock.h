// Time as the engine sees it.
//
// There is one kind of time: the wall clock, read once when the process starts and moved forward by the monotonic
// clock from then on. So batch times are aligned to the wall clock (row BC-01), and a clock that is set back or forth
// while the program runs changes nothing.
#pragma once

#include <chrono>
#include <string>

namespace sluice {

/// A length of time; all std::chrono durations convert to it.
using Duration = std::chrono::nanoseconds;

/// A point in time, counted from 1970-01-01 00:00:00 UTC.
using Time = std::chrono::time_point<std::chrono::system_clock, Duration>;

/// Milliseconds since 1970, as Spark prints batch times and names output directories.
inline long long to_milliseconds(Time time) {
  return std::chrono::floor<std::chrono::milliseconds>(time).time_since_epoch().count();
}

/// "1.5 s", "20 ms", "3 us": the largest unit in which `duration` is at least 1, at most three decimals.
std::string to_string(Duration duration);

/// Tells the time. Threads: safe from all threads.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual Time now() const = 0;
};

}  // namespace sluice
