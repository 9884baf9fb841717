#include "sluice/cluster/scaling.h"

#include <algorithm>
#include <cmath>

#include "sluice/runtime/errors.h"

namespace sluice::detail {

Scaling::Scaling(const ScalingOptions& options) : options_(options) {
  if (options.up <= options.down)
    throw Error(Code::bad_setting, {.why = "--sluice.scaling-up: not above scaling-down"});
  if (options.max < std::max<std::size_t>(options.min, 1)) {
    throw Error(Code::bad_setting, {.why = "--sluice.executors-max: below executors-min"});
  }
}

void Scaling::add(Duration took, Duration batch_interval) {
  sum_ += std::chrono::duration<double>(took) / std::chrono::duration<double>(batch_interval);
  ++batches_;
}

std::size_t Scaling::wanted(Time now, std::size_t executors, std::size_t receivers) {
  if (next_ == Time{}) next_ = now + options_.interval;
  if (now < next_) return executors;
  next_ = now + options_.interval;
  if (batches_ == 0) return executors;
  const double ratio = sum_ / static_cast<double>(batches_);
  sum_ = 0;
  batches_ = 0;
  const std::size_t min = options_.min > 0 ? options_.min : std::max<std::size_t>(receivers, 1);
  std::size_t count = executors;
  if (ratio >= options_.up) count += static_cast<std::size_t>(std::max(std::lround(ratio), 1L));
  if (ratio <= options_.down && count > 0) --count;
  return std::clamp(count, min, std::max(min, options_.max));
}

}  // namespace sluice::detail
