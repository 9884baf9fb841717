#include "sluice/stream/driver.h"

#include <algorithm>
#include <cstdio>
#include <set>
#include <unordered_map>

namespace sluice::detail {
namespace {

/// Checkpoint directories of the contexts that run in this process (LC-06).
struct ActiveDirectories {
  std::mutex mutex;
  std::set<std::string> in_use;
};
ActiveDirectories& active_directories() {
  static ActiveDirectories& instance = *new ActiveDirectories;
  return instance;
}

// The driver whose listeners are being called on this thread.
thread_local const Driver* telling = nullptr;

std::string text_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (...) {
    return current_exception_text();
  }
}

/// What is told of an output that failed: SLU-202 when its function threw something of its own. A sluice::Error stays,
/// because it knows better what failed; if it names no operation, it gets the output's name and place.
std::exception_ptr at_output(const std::exception_ptr& error, const OperatorInfo& output) {
  try {
    try {
      std::rethrow_exception(error);
    } catch (const Error&) {
      rethrow_at(output);
    } catch (...) {
      throw Error(Code::output_failed,
                  {.why = current_exception_text(), .operation = output.name, .where = output.where});
    }
  } catch (...) {
    return std::current_exception();
  }
}

/// Errors that name no operation get the input's.
void start_input(Input& input, Engine& engine, const OperatorInfo& info) {
  try {
    input.start(engine);
  } catch (const Error&) {
    rethrow_at(info);
  }
}

}  // namespace

// ---- StreamNode

NodePtr StreamNode::at(Engine& engine, Time time) {
  const auto found = made_.find(time);
  if (found != made_.end()) return found->second;
  SLUICE_ASSERT(compute != nullptr);
  put(engine, time, compute(time));
  return made_.at(time);
}

void StreamNode::put(Engine& engine, Time time, NodePtr node) {
  if (persist.has_value()) node = make_cached(engine, std::move(node), *persist);
  made_[time] = std::move(node);
}

std::vector<Time> StreamNode::times(Time zero, Time after, Time until) const {
  std::vector<Time> all;
  if (after < zero) after = zero;
  for (Time t = zero + slide * ((after - zero) / slide + 1); t <= until; t += slide) all.push_back(t);
  return all;
}

void StreamNode::forget_before(Time time) { made_.erase(made_.begin(), made_.lower_bound(time)); }

// ---- Graph

Driver::Driver(std::shared_ptr<Engine> engine, DriverOptions options)
    : engine_(std::move(engine)),
      options_(std::move(options)),
      budget_(std::make_shared<ReceiverBudget>(engine_->runtime(), options_.receiver_memory_bytes)),
      changed_(engine_->runtime().condition()) {}

Driver::~Driver() {
  if (state() == StreamState::active) request_stop(false);
  if (thread_ != nullptr) thread_->join();
  // Nodes of one stream refer to others through `compute`; cut that, or cycles would keep all of it.
  for (const StreamNodePtr& stream : streams_) {
    stream->forget_before(Time::max());
    stream->compute = nullptr;
  }
}

void Driver::check_not_started(const OperatorInfo& info) {
  const std::lock_guard lock(mutex_);
  if (state_ == StreamState::initialized) return;
  throw Error(Code::graph_is_fixed,
              {.why = state_ == StreamState::active ? "the stream has been started" : "the stream has been stopped",
               .operation = info.name,
               .where = info.where});
}

StreamNodePtr Driver::add_input(std::shared_ptr<OperatorInfo> info, std::unique_ptr<Input> input) {
  StreamNodePtr stream = add_stream(std::move(info), {}, options_.interval);
  inputs_.push_back({std::move(input), stream});
  return stream;
}

StreamNodePtr Driver::add_stream(std::shared_ptr<OperatorInfo> info, std::vector<StreamNodePtr> parents,
                                 Duration slide) {
  check_not_started(*info);
  auto stream = std::make_shared<StreamNode>();
  stream->info = std::move(info);
  stream->parents = std::move(parents);
  stream->slide = slide;
  streams_.push_back(stream);
  return stream;
}

void Driver::add_output(std::shared_ptr<OperatorInfo> info, StreamNodePtr stream,
                        std::function<void(const NodePtr&, Time)> function) {
  check_not_started(*info);
  outputs_.push_back({std::move(info), std::move(stream), std::move(function), false});
}

// ---- Life cycle

void Driver::check_graph() {
  if (outputs_.empty()) throw Error(Code::no_output, {});
  for (const StreamNodePtr& stream : streams_) {
    if (stream->stateful && options_.checkpoint.empty()) {
      throw Error(Code::no_checkpoint_directory, {.operation = stream->info->name, .where = stream->info->where});
    }
  }
}

// A stream keeps its RDDs as long as those who reach back into it do. Streams stand in the order of their making, so
// children come after their parents.
void Driver::set_keep_times() {
  for (auto it = streams_.rbegin(); it != streams_.rend(); ++it) {
    StreamNode& stream = **it;
    for (const StreamNodePtr& parent : stream.parents) {
      parent->keep = std::max(parent->keep, stream.keep + stream.reach);
    }
  }
  for (const StreamNodePtr& stream : streams_) {
    if (!stream->in_batch_only || stream->keep == Duration{}) continue;
    stream->stateful = true;
    if (!stream->persist) stream->persist = Keep::memory_and_disk;
  }
}

void Driver::start() {
  {
    const std::lock_guard lock(mutex_);
    if (state_ == StreamState::stopped) throw Error(Code::context_stopped, {});
    if (state_ == StreamState::active) {
      std::fprintf(stderr, "sluice: start() of a stream that has been started already\n");
      return;
    }
  }
  // A failed start leaves everything as it was, so that it can be mended and tried again (LC-05).
  check_graph();
  receivers_ = 0;
  for (const InputSlot& slot : inputs_) receivers_ += static_cast<long>(slot.input->receivers());
  if (!options_.checkpoint.empty()) {
    ActiveDirectories& active = active_directories();
    const std::lock_guard lock(active.mutex);
    if (!active.in_use.insert(options_.checkpoint).second) {
      throw Error(Code::already_active, {.why = options_.checkpoint});
    }
  }
  std::size_t started = 0;
  try {
    engine_->reserve_cores(receivers_);
    try {
      if (!options_.checkpoint.empty()) engine_->runtime().files().make_directories(options_.checkpoint);
      for (; started < inputs_.size(); ++started) {
        start_input(*inputs_[started].input, *engine_, *inputs_[started].stream->info);
      }
    } catch (...) {
      for (std::size_t i = 0; i < started; ++i) inputs_[i].input->stop();
      engine_->reserve_cores(-receivers_);
      throw;
    }
  } catch (...) {
    ActiveDirectories& active = active_directories();
    const std::lock_guard lock(active.mutex);
    active.in_use.erase(options_.checkpoint);
    throw;
  }
  set_keep_times();
  const std::size_t declared = streams_.size();
  for (std::size_t i = 0; i < declared; ++i) {
    if (!streams_[i]->stateful) continue;
    StreamOutput keep_up{streams_[i]->info, streams_[i], nullptr, true};
    keep_up.function = [this, info = streams_[i]->info](const NodePtr& node, Time) {
      Turns::collect(*engine_, make_discard(info, node));
    };
    outputs_.push_back(std::move(keep_up));
  }
  const Time now = engine_->runtime().clock().now();
  zero_ = Time((now.time_since_epoch() / options_.interval) * options_.interval);
  const std::lock_guard lock(mutex_);
  state_ = StreamState::active;
  thread_ = engine_->runtime().spawn("stream", [this] { run(); });
}

StreamState Driver::state() {
  const std::lock_guard lock(mutex_);
  return state_;
}

bool Driver::await_termination(std::optional<Time> deadline) {
  std::unique_lock lock(mutex_);
  if (state_ == StreamState::initialized) throw Error(Code::context_not_started, {});
  while (!ended_) {
    if (deadline.has_value()) {
      if (!changed_->wait_until(lock, *deadline) && !ended_) return false;
    } else {
      changed_->wait(lock);
    }
  }
  if (error_ != nullptr) std::rethrow_exception(error_);
  return true;
}

std::size_t Driver::await_batches(std::size_t count) {
  std::unique_lock lock(mutex_);
  while (batches_completed_ < count && !ended_ && state_ == StreamState::active) changed_->wait(lock);
  return batches_completed_;
}

std::size_t Driver::batches_completed() {
  const std::lock_guard lock(mutex_);
  return batches_completed_;
}

void Driver::request_stop(bool graceful) {
  const std::lock_guard lock(mutex_);
  if (stop_requested_ && graceful_ && !graceful) graceful_ = false;
  if (!stop_requested_) graceful_ = graceful;
  stop_requested_ = true;
  if (!graceful_) cancelled_ = true;
  changed_->notify_all();
}

void Driver::stop(bool graceful, std::optional<Duration> timeout) {
  if (telling == this) throw Error(Code::stop_in_listener, {});
  if (Turns::playing()) {
    // Called by an output function, whose batch a stop would wait for: the batch is finished, then the stream stops.
    request_stop(true);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    if (state_ == StreamState::initialized) {
      state_ = StreamState::stopped;
      ended_ = true;
      changed_->notify_all();
      return;
    }
    if (state_ == StreamState::stopped && joined_) return;
  }
  request_stop(graceful);
  std::unique_ptr<Thread> thread;
  {
    std::unique_lock lock(mutex_);
    const Time deadline = timeout ? engine_->runtime().clock().now() + *timeout : Time::max();
    while (!ended_) {
      if (!timeout.has_value()) {
        changed_->wait(lock);
      } else if (!changed_->wait_until(lock, deadline) && !ended_) {
        throw Error(Code::stop_timed_out, {});
      }
    }
    joined_ = true;
    thread = std::move(thread_);
  }
  if (thread != nullptr) thread->join();
}

void Driver::add_listener(std::shared_ptr<StreamingListener> listener) {
  const std::lock_guard lock(mutex_);
  listeners_.push_back(std::move(listener));
}

void Driver::remove_listener(const StreamingListener* listener) {
  const std::lock_guard lock(mutex_);
  std::erase_if(listeners_, [listener](const auto& known) { return known.get() == listener; });
}

template <class Tell>
void Driver::tell(const Tell& tell) {
  std::vector<std::shared_ptr<StreamingListener>> listeners;
  {
    const std::lock_guard lock(mutex_);
    if (listeners_.empty()) return;
    listeners = listeners_;
  }
  telling = this;
  try {
    for (const auto& listener : listeners) tell(*listener);
  } catch (...) {
    telling = nullptr;
    throw;
  }
  telling = nullptr;
}

// ---- The stream's thread

void Driver::run() {
  std::exception_ptr error;
  try {
    tell([this](StreamingListener& listener) { listener.on_streaming_started(zero_); });
    run_batches();
  } catch (...) {
    error = std::current_exception();
  }
  try {
    stop_inputs();
    for (const StreamNodePtr& stream : streams_) stream->forget_before(Time::max());
    outputs_.clear();  // their functions may hold what holds this stream
  } catch (...) {
    if (error == nullptr) error = std::current_exception();
  }
  end(error);
}

void Driver::stop_inputs() {
  // Twice called after a graceful stop; inputs are stopped once.
  for (InputSlot& slot : inputs_) {
    if (slot.input == nullptr) continue;
    budget_->cancel();
    slot.input->stop();
    slot.input = nullptr;
  }
}

void Driver::end(const std::exception_ptr& error) {
  engine_->reserve_cores(-receivers_);
  if (!options_.checkpoint.empty()) {
    ActiveDirectories& active = active_directories();
    const std::lock_guard lock(active.mutex);
    active.in_use.erase(options_.checkpoint);
  }
  const std::lock_guard lock(mutex_);
  // What a stop that was asked for cut off is no error.
  if (error != nullptr && !(stop_requested_ && !graceful_)) error_ = error;
  state_ = StreamState::stopped;
  ended_ = true;
  changed_->notify_all();
}

bool Driver::wait_for_batch(Time time) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (stop_requested_) return false;
    if (engine_->runtime().clock().now() >= time) return true;
    changed_->wait_until(lock, time);
  }
}

bool Driver::inputs_ended() {
  if (!options_.stop_at_end_of_input || inputs_.empty()) return false;
  return std::all_of(inputs_.begin(), inputs_.end(), [](const InputSlot& slot) { return slot.input->ended(); });
}

void Driver::run_batches() {
  Time time = zero_ + options_.interval;
  while (wait_for_batch(time)) {
    const bool last = inputs_ended();
    run_batch(time);
    time += options_.interval;
    if (last) return;
  }
  bool graceful = false;
  {
    const std::lock_guard lock(mutex_);
    graceful = graceful_;
  }
  if (!graceful) return;
  // Graceful (GS-01): intervals that are due, then nothing more comes in, then what has come in. The last batch does
  // not wait for its time: nothing can be added to it.
  budget_->cancel();
  for (InputSlot& slot : inputs_) {
    if (slot.input->receivers() > 0) slot.input->stop();
  }
  bool pending = false;
  for (InputSlot& slot : inputs_) pending = slot.input->pending() || pending;
  // Looked at once: a stream that cannot keep up would never come to its end.
  const Time stopped = engine_->runtime().clock().now();
  while (time <= stopped) {
    run_batch(time);
    time += options_.interval;
    pending = false;
    for (InputSlot& slot : inputs_) pending = slot.input->pending() || pending;
  }
  if (pending) run_batch(time);
  std::erase_if(inputs_, [](const InputSlot& slot) { return slot.input->receivers() > 0; });
}

void Driver::tell_receiver_events() {
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    for (Input::ReceiverEvent& event : inputs_[i].input->take_events()) {
      ReceiverInfo info{i, inputs_[i].stream->info->name, event.kind != Input::ReceiverEvent::Kind::stopped,
                        std::move(event.error)};
      tell([&](StreamingListener& listener) {
        switch (event.kind) {
          case Input::ReceiverEvent::Kind::started: return listener.on_receiver_started(info);
          case Input::ReceiverEvent::Kind::error: return listener.on_receiver_error(info);
          case Input::ReceiverEvent::Kind::stopped: return listener.on_receiver_stopped(info);
        }
      });
    }
  }
}

// First the RDDs of all outputs are made, one after the other, because functions given to `transform` may run actions;
// then the output functions take turns, and what they ask for is planned together.
std::vector<OutputInfo> Driver::run_outputs(Time time, std::exception_ptr& error) {
  struct Due {
    std::size_t id;
    NodePtr node;
    std::exception_ptr error;
  };
  std::vector<Due> due;
  for (std::size_t id = 0; id < outputs_.size(); ++id) {
    if ((time - zero_) % outputs_[id].stream->slide == Duration{}) due.push_back({id, nullptr, nullptr});
  }
  const JobOptions options{time, &cancelled_};
  const auto prepare = [&] {
    for (Due& output : due) {
      try {
        output.node = outputs_[output.id].stream->at(*engine_, time);
      } catch (...) {
        output.error = std::current_exception();
      }
    }
  };
  Turns(*engine_, options).run({prepare});
  std::vector<std::function<void()>> functions;
  std::vector<Due*> playing;
  for (Due& output : due) {
    if (output.error != nullptr) continue;
    playing.push_back(&output);
    functions.emplace_back([this, &output, time] { outputs_[output.id].function(output.node, time); });
  }
  const std::vector<std::exception_ptr> errors = Turns(*engine_, options).run(std::move(functions));
  for (std::size_t i = 0; i < playing.size(); ++i) playing[i]->error = errors[i];

  std::vector<OutputInfo> told;
  for (Due& output : due) {
    if (output.error != nullptr) output.error = at_output(output.error, *outputs_[output.id].info);
    if (output.error != nullptr && error == nullptr) error = output.error;
    if (outputs_[output.id].internal) continue;
    told.push_back(
        {output.id, outputs_[output.id].info->name, output.error == nullptr ? std::string() : text_of(output.error)});
  }
  return told;
}

void Driver::run_batch(Time time) {
  Clock& clock = engine_->runtime().clock();
  BatchInfo batch;
  batch.batch_time = time;
  batch.submitted = time;
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    InputSlot& slot = inputs_[i];
    InputInfo told;
    told.stream = i;
    told.name = slot.stream->info->name;
    slot.stream->put(*engine_, time, slot.input->batch(*engine_, slot.stream->info, time, told));
    batch.inputs.push_back(std::move(told));
  }
  tell_receiver_events();
  tell([&](StreamingListener& listener) { listener.on_batch_submitted(batch); });
  batch.started = clock.now();
  tell([&](StreamingListener& listener) { listener.on_batch_started(batch); });

  std::exception_ptr error;
  batch.outputs = run_outputs(time, error);
  batch.ended = clock.now();
  for (const StreamNodePtr& stream : streams_) stream->forget_before(time - stream->keep + Duration(1));
  for (InputSlot& slot : inputs_) slot.input->completed(time);
  tell([&](StreamingListener& listener) { listener.on_batch_completed(batch); });
  if (error != nullptr) std::rethrow_exception(error);  // a failed batch is not complete
  const std::lock_guard lock(mutex_);
  ++batches_completed_;
  changed_->notify_all();
}

}  // namespace sluice::detail
