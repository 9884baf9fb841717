#include "sluice/stream/input.h"

#include "sluice/runtime/kill_point.h"

namespace sluice::detail {

NodePtr make_input_node(const OperatorInfoPtr& info, const TypeOps& type, std::vector<Shipped<Source>> sources,
                        std::size_t partitions_max) {
  if (sources.empty()) {
    // The type of an empty collection does not matter: nothing is pushed.
    return make_source(info, type, {ship<Source, CollectionSource<char>>(*info, std::vector<char>())}, 1);
  }
  const std::size_t partitions = sources.size();
  NodePtr node = make_source(info, type, std::move(sources), partitions);
  if (partitions <= partitions_max) return node;
  return make_union(info, {std::move(node)}, UnionBody::How::coalesce, partitions_max);
}

// ---- ReceiverBudget

ReceiverBudget::ReceiverBudget(Runtime& runtime, std::size_t limit_bytes)
    : limit_(limit_bytes), freed_(runtime.condition()) {}

bool ReceiverBudget::acquire(std::size_t bytes) {
  std::unique_lock lock(mutex_);
  while (!cancelled_ && used_ > 0 && used_ + bytes > limit_) freed_->wait(lock);
  if (cancelled_) return false;
  used_ += bytes;
  return true;
}

void ReceiverBudget::take(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  used_ += bytes;
}

void ReceiverBudget::release(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  SLUICE_ASSERT(used_ >= bytes);
  used_ -= bytes;
  freed_->notify_all();
}

void ReceiverBudget::cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  freed_->notify_all();
}

std::size_t ReceiverBudget::used() {
  const std::lock_guard lock(mutex_);
  return used_;
}

// ---- ReceiverChannel

ReceiverChannel::ReceiverChannel(Engine& engine, std::shared_ptr<ReceiverBudget> budget, Duration block_interval)
    : engine_(engine),
      block_interval_(block_interval),
      budget_(std::move(budget)),
      changed_(engine.runtime().condition()) {}

bool ReceiverChannel::wait_for(Duration duration) {
  const Time until = engine_.runtime().clock().now() + duration;
  std::unique_lock lock(mutex_);
  while (!stopped() && engine_.runtime().clock().now() < until) changed_->wait_until(lock, until);
  return !stopped();
}

bool ReceiverChannel::store_block(NewBlock block) {
  if (stopped() || !budget_->acquire(block.bytes)) return false;
  kill_point("receiver.before_store");
  const std::uint64_t place = put(std::move(block), engine_.runtime().clock().now());
  kill_point("receiver.after_store");
  if (recorder_ != nullptr) recorder_->wait_durable(place);
  kill_point("receiver.before_ack");
  return true;
}

void ReceiverChannel::put_block(NewBlock block, Time stored) { put(std::move(block), stored); }

// The record comes before the block can be taken for a batch (journal.h, J2); neither waits.
std::uint64_t ReceiverChannel::put(NewBlock block, Time stored) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t number = ++last_number_;
  std::uint64_t place = 0;
  if (!block.position.empty()) position_ = block.position;
  if (recorder_ != nullptr) {
    const RecordedBlock recorded{number, block.bytes, block.records, stored, std::nullopt, std::move(block.position)};
    place = recorder_->record(recorded, block.logged());
  }
  blocks_.push_back({number, std::move(block.source), block.bytes, block.records, stored});
  return place;
}

std::string ReceiverChannel::position() {
  const std::lock_guard lock(mutex_);
  return position_;
}

void ReceiverChannel::record_with(std::shared_ptr<BlockRecorder> recorder, std::uint64_t number_before,
                                  std::string position) {
  const std::lock_guard lock(mutex_);
  recorder_ = std::move(recorder);
  last_number_ = number_before;
  position_ = std::move(position);
}

void ReceiverChannel::end_of_input() { end_of_input_ = true; }

void ReceiverChannel::report_error(std::string text) {
  add_event({Input::ReceiverEvent::Kind::error, std::move(text)});
}

void ReceiverChannel::request_stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  changed_->notify_all();
}

std::vector<ReceivedBlock> ReceiverChannel::take_until(Time time) {
  const std::lock_guard lock(mutex_);
  std::vector<ReceivedBlock> taken;
  while (!blocks_.empty() && blocks_.front().stored <= time) {
    taken.push_back(std::move(blocks_.front()));
    blocks_.pop_front();
  }
  return taken;
}

bool ReceiverChannel::has_blocks() {
  const std::lock_guard lock(mutex_);
  return !blocks_.empty();
}

std::vector<Input::ReceiverEvent> ReceiverChannel::take_events() {
  const std::lock_guard lock(mutex_);
  return std::exchange(events_, {});
}

void ReceiverChannel::add_event(Input::ReceiverEvent event) {
  const std::lock_guard lock(mutex_);
  // A receiver that fails in a tight loop must not fill the memory; the latest errors count.
  if (events_.size() >= 100) events_.erase(events_.begin());
  events_.push_back(std::move(event));
}

// ---- ReceiverInput

ReceiverInput::ReceiverInput(std::string argument, const TypeOps& type, Options options, std::size_t partitions_max,
                             MakeChannel make_channel, Body body)
    : argument_(std::move(argument)),
      type_(type),
      options_(options),
      partitions_max_(partitions_max),
      make_channel_(std::move(make_channel)),
      body_(std::move(body)) {}

void ReceiverInput::start(Engine& engine, InputStart start) {
  channel_ = make_channel_(engine);
  recorded_ = start.recorder != nullptr;
  channel_->record_with(start.recorder, start.number_before, start.position);
  earlier_ = std::move(start);
  thread_ = engine.runtime().spawn("receiver", [this, &engine] { run(engine); });
}

void ReceiverInput::start_replay(Engine& engine, InputStart start) {
  channel_ = make_channel_(engine);
  earlier_ = std::move(start);
}

void ReceiverInput::run(Engine&) {
  using Kind = ReceiverEvent::Kind;
  while (!channel_->stopped()) {
    channel_->add_event({Kind::started, {}});
    try {
      body_(*channel_);
    } catch (...) {
      channel_->report_error(current_exception_text());
    }
    channel_->seal();
    channel_->add_event({Kind::stopped, {}});
    if (channel_->at_end()) return;
    channel_->wait_for(options_.restart_delay);
  }
}

void ReceiverInput::stop() {
  if (thread_ == nullptr) return;
  channel_->request_stop();
  thread_->join();
  thread_ = nullptr;
  channel_->seal();
}

std::string ReceiverInput::choose(Engine&, Time time, InputInfo& told) {
  channel_->seal_until(time);
  chosen_ = std::exchange(earlier_.unallocated, {});
  for (const std::uint64_t number : chosen_) {
    const RecordedBlock& block = earlier_.blocks.at(number);
    told.bytes += block.bytes;
    told.records += block.records;
  }
  std::size_t held = 0;
  for (ReceivedBlock& block : channel_->take_until(time)) {
    held += block.bytes;
    told.bytes += block.bytes;
    told.records += block.records;
    chosen_.push_back(block.number);
    at_hand_.emplace(block.number, std::move(block.source));
  }
  told.blocks += chosen_.size();
  if (held > 0) held_.emplace_back(time, held);
  if (chosen_.empty()) return {};
  Encoder out;
  encode(chosen_, out);
  return out.take();
}

// Of blocks of an earlier run that were in memory alone nothing is left.
NodePtr ReceiverInput::rdd(Engine&, const OperatorInfoPtr& info, std::string_view choice, InputInfo& told) {
  std::vector<Shipped<Source>> sources;
  if (!choice.empty()) {
    Decoder in(choice);
    for (const std::uint64_t number : decode<std::vector<std::uint64_t>>(in)) {
      const auto here = at_hand_.find(number);
      if (here != at_hand_.end()) {
        sources.push_back(std::move(here->second));
        at_hand_.erase(here);
        continue;
      }
      const auto earlier = earlier_.blocks.find(number);
      if (earlier == earlier_.blocks.end() || !earlier->second.handle) {
        ++told.blocks_lost;
      } else {
        sources.push_back(channel_->logged_source(earlier_.wal_directory, *earlier->second.handle));
      }
    }
  }
  return make_input_node(info, type_, std::move(sources), partitions_max_);
}

void ReceiverInput::completed(Time time) {
  while (!held_.empty() && held_.front().first <= time) {
    channel_->budget().release(held_.front().second);
    held_.pop_front();
  }
}

bool ReceiverInput::pending() {
  channel_->seal();
  return channel_->has_blocks() || !earlier_.unallocated.empty();
}

bool ReceiverInput::ended() { return channel_->at_end() && !pending(); }

std::vector<Input::ReceiverEvent> ReceiverInput::take_events() { return channel_->take_events(); }

}  // namespace sluice::detail
