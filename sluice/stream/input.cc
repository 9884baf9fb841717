#include "sluice/stream/input.h"

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

bool ReceiverChannel::store_block(Shipped<Source> source, std::size_t bytes, std::uint64_t records) {
  if (stopped() || !budget_->acquire(bytes)) return false;
  push(std::move(source), bytes, records);
  return true;
}

void ReceiverChannel::put_block(Shipped<Source> source, std::size_t bytes, std::uint64_t records, Time stored) {
  const std::lock_guard lock(mutex_);
  blocks_.push_back({std::move(source), bytes, records, stored});
}

void ReceiverChannel::push(Shipped<Source> source, std::size_t bytes, std::uint64_t records) {
  const Time now = engine_.runtime().clock().now();
  const std::lock_guard lock(mutex_);
  blocks_.push_back({std::move(source), bytes, records, now});
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

ReceiverInput::ReceiverInput(std::string name, const TypeOps& type, Options options, std::size_t partitions_max,
                             MakeChannel make_channel, Body body)
    : name_(std::move(name)),
      type_(type),
      options_(options),
      partitions_max_(partitions_max),
      make_channel_(std::move(make_channel)),
      body_(std::move(body)) {}

void ReceiverInput::start(Engine& engine) {
  channel_ = make_channel_(engine);
  thread_ = engine.runtime().spawn("receiver", [this, &engine] { run(engine); });
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
  if (channel_ == nullptr) return;
  channel_->request_stop();
  thread_->join();
  channel_->seal();
}

NodePtr ReceiverInput::batch(Engine&, const OperatorInfoPtr& info, Time time, InputInfo& told) {
  channel_->seal_until(time);
  std::vector<Shipped<Source>> sources;
  for (ReceivedBlock& block : channel_->take_until(time)) {
    told.bytes += block.bytes;
    told.records += block.records;
    ++told.blocks;
    sources.push_back(std::move(block.source));
  }
  if (told.bytes > 0) held_.emplace_back(time, told.bytes);
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
  return channel_->has_blocks();
}

bool ReceiverInput::ended() { return channel_->at_end() && !pending(); }

std::vector<Input::ReceiverEvent> ReceiverInput::take_events() { return channel_->take_events(); }

}  // namespace sluice::detail
