// How many executors a stream needs, from how long its batches take (Spark's ExecutorAllocationManager of streaming,
// rows DA).
//
// Once an interval, the mean of processing time by batch interval is looked at: from `up` on, there are to be as many
// more executors as that, rounded (at least one); down to `down`, one fewer.
#pragma once

#include <cstddef>

#include "sluice/runtime/clock.h"

namespace sluice::detail {

struct ScalingOptions {
  bool is_on = false;
  Duration interval = std::chrono::seconds(60);
  double up = 0.9;
  double down = 0.3;
  /// 0: as many as there are receivers, and at least one.
  std::size_t min = 0;
  std::size_t max = 0;
};

/// See the head of this file. Threads: one at a time.
class Scaling {
 public:
  /// Errors: SLU-114 when `up` is not above `down`, or `max` is below `min`.
  explicit Scaling(const ScalingOptions& options);

  /// A batch has succeeded.
  void add(Duration took, Duration batch_interval);
  /// How many executors there are to be, where there are or will be `executors`, and `receivers` run on them.
  std::size_t wanted(Time now, std::size_t executors, std::size_t receivers);

 private:
  const ScalingOptions options_;
  Time next_{};
  double sum_ = 0;
  std::size_t batches_ = 0;
};

}  // namespace sluice::detail
