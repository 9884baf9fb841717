#include "sluice/runtime/runtime.h"

namespace sluice {

void Runtime::wait_for(Duration duration) {
  if (duration <= Duration::zero()) return;
  const Time now = clock().now();
  const Time deadline = duration < Time::max() - now ? now + duration : Time::max();
  const std::unique_ptr<Condition> never_notified = condition();
  std::mutex mutex;
  std::unique_lock lock(mutex);
  while (clock().now() < deadline) never_notified->wait_until(lock, deadline);
}

}  // namespace sluice
