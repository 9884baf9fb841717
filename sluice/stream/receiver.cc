#include "sluice/stream/receiver.h"

#include <utility>

#include "sluice/runtime/kill_point.h"

namespace sluice::detail {

ReceiverChannel::ReceiverChannel(const ReceiverPlace& place, Duration block_interval)
    : runtime_(place.runtime),
      block_interval_(block_interval),
      blocks_(place.blocks),
      budget_(place.budget),
      place_(place.name),
      changed_(place.runtime.condition()) {}

bool ReceiverChannel::wait_for(Duration duration) {
  const Time until = runtime_.clock().now() + duration;
  std::unique_lock lock(mutex_);
  while (!stopped_ && runtime_.clock().now() < until) changed_->wait_until(lock, until);
  return !stopped_;
}

bool ReceiverChannel::store_block(NewBlock block) {
  if (stopped() || !budget_.acquire(block.bytes)) return false;
  kill_point("receiver.before_store");
  const std::uint64_t place = blocks_.put(std::move(block), runtime_.clock().now());
  kill_point("receiver.after_store");
  const bool is_stored = blocks_.wait_stored(place);
  kill_point("receiver.before_ack");
  return is_stored;
}

void ReceiverChannel::end_of_input() {
  at_end_ = true;
  blocks_.end_of_input();
}

void ReceiverChannel::add_event(Input::ReceiverEvent::Kind kind, std::string error) {
  blocks_.add_event({kind, std::move(error), place_});
}

void ReceiverChannel::report_error(std::string text) { add_event(Input::ReceiverEvent::Kind::error, std::move(text)); }

void ReceiverChannel::request_stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  changed_->notify_all();
}

void run_receiver(ReceiverChannel& channel, const ReceiverProgram::Body& body, Duration restart_delay) {
  using Kind = Input::ReceiverEvent::Kind;
  while (!channel.stopped()) {
    channel.add_event(Kind::started);
    try {
      body(channel);
    } catch (...) {
      channel.report_error(current_exception_text());
    }
    channel.seal();
    channel.add_event(Kind::stopped);
    if (channel.at_end()) return;
    channel.wait_for(restart_delay);
  }
}

}  // namespace sluice::detail
