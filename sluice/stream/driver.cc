#include "sluice/stream/driver.h"

#include <algorithm>
#include <cstdio>
#include <set>
#include <unordered_map>

#include "sluice/runtime/kill_point.h"
#include "sluice/runtime/planted_bug.h"

namespace sluice::detail {
namespace {

/// Checkpoint directories of the contexts that run in this process (LC-06).
struct ActiveDirectories {
  std::mutex mutex;
  std::set<std::pair<std::uint64_t, std::string>> in_use;  // with their process, see Runtime::process
};
ActiveDirectories& active_directories() {
  static ActiveDirectories& instance = *new ActiveDirectories;
  return instance;
}

// How often state is restored before a batch is complete: see load_state.
constexpr unsigned restores_max = 10;
// A gap before the next batch that is shorter is not worth beginning a piece of a checkpoint.
constexpr Duration save_gap_min = std::chrono::microseconds(300);

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
  // What checkpoints keep of it may have been made of what is gone by now.
  const bool cannot_be_made_again = in_batch_only || !kept_as.empty();
  if (persist.has_value()) node = make_cached(engine, std::move(node), *persist, cannot_be_made_again);
  made_[time] = std::move(node);
}

std::vector<Time> StreamNode::times(Time zero, Time after, Time until) const {
  std::vector<Time> all;
  if (after < zero) after = zero;
  for (Time t = zero + slide * ((after - zero) / slide + 1); t <= until; t += slide) all.push_back(t);
  return all;
}

NodePtr StreamNode::empty(std::size_t partitions) const {
  // The type of an empty collection does not matter: nothing is pushed.
  std::vector<Shipped<Source>> sources;
  for (std::size_t p = 0; p < partitions; ++p) {
    sources.push_back(ship<Source, CollectionSource<char>>(*info, std::vector<char>()));
  }
  return make_source(info, *type, std::move(sources), partitions, nullptr, true);
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

void Driver::add_output(StreamOutput output) {
  check_not_started(*output.info);
  outputs_.push_back(std::move(output));
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
      parent->asked_back = std::max(parent->asked_back, stream.reach);
    }
  }
  for (const StreamNodePtr& stream : streams_) {
    if (!stream->in_batch_only || stream->keep == Duration{}) continue;
    stream->stateful = true;
    if (!stream->persist) stream->persist = Keep::memory_and_disk;
  }
  if (options_.checkpoint.empty()) return;
  // What windows reach back for is a part of checkpoints, unless it is an input that can be read again.
  for (const StreamNodePtr& stream : streams_) {
    if (stream->asked_back == Duration{}) continue;
    stream->past_is_made = true;
    const auto input =
        std::find_if(inputs_.begin(), inputs_.end(), [&](const InputSlot& slot) { return slot.stream == stream; });
    const bool read_again =
        input != inputs_.end() && input->input->can_be_read_again() && (input->input->receivers() == 0 || options_.wal);
    if (read_again) {
      held_for_ = std::max(held_for_, stream->asked_back);
      continue;
    }
    stream->stateful = true;
    if (!stream->persist) stream->persist = Keep::memory_and_disk;
    stream->kept_as = "?";  // its name follows in set_identities
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
  set_keep_times();
  if (!options_.checkpoint.empty()) set_identities();
  receivers_ = 0;
  for (const InputSlot& slot : inputs_) receivers_ += static_cast<long>(slot.input->receivers());
  if (!options_.checkpoint.empty()) {
    ActiveDirectories& active = active_directories();
    const std::lock_guard lock(active.mutex);
    if (!active.in_use.emplace(engine_->runtime().process(), options_.checkpoint).second) {
      throw Error(Code::already_active, {.why = options_.checkpoint});
    }
  }
  std::size_t started = 0;
  try {
    engine_->reserve_cores(receivers_);
    try {
      const Time now = engine_->runtime().clock().now();
      zero_ = Time((now.time_since_epoch() / options_.interval) * options_.interval);
      if (!options_.checkpoint.empty()) {
        open_directory();
      } else {
        engine_->runner().take_up_state({}, 0, {});  // what executors have kept is another application's
      }
      last_batch_ = std::max(last_batch_, zero_);
      resumed_after_ = std::max(resumed_after_, zero_);
      if (!options_.dry_run && !options_.replay.has_value()) {
        start_outputs();
        start_inputs(started);
      }
    } catch (...) {
      for (std::size_t i = 0; i < started; ++i) inputs_[i].input->stop();
      directory_ = nullptr;
      close_large_states();
      for (const StreamNodePtr& stream : streams_) {
        if (stream->state) engine_->states().remove(stream->state->operation);
        stream->forget_before(Time::max());
      }
      engine_->reserve_cores(-receivers_);
      throw;
    }
  } catch (...) {
    ActiveDirectories& active = active_directories();
    const std::lock_guard lock(active.mutex);
    active.in_use.erase({engine_->runtime().process(), options_.checkpoint});
    throw;
  }
  add_internal_outputs();
  const std::lock_guard lock(mutex_);
  state_ = StreamState::active;
  thread_ = engine_->runtime().spawn("stream", [this] { run(); });
}

void Driver::add_internal_outputs() {
  for (const StreamNodePtr& stream : streams_) {
    if (!stream->stateful) continue;
    StreamOutput keep_up;
    keep_up.info = stream->info;
    keep_up.stream = stream;
    keep_up.internal = true;
    keep_up.function = [this, info = stream->info](const NodePtr& node, const OutputBatch&) {
      Turns::collect(*engine_, make_discard(info, node), Turns::Seen::nothing);
      return std::string();
    };
    outputs_.push_back(std::move(keep_up));
  }
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
  std::exception_ptr error;  // the first one; what comes after it is done all the same
  const auto attempt = [&error](const auto& step) {
    try {
      step();
    } catch (...) {
      if (error == nullptr) error = std::current_exception();
    }
  };
  attempt([this] {
    if (options_.replay.has_value()) {
      run_replay();
    } else if (!options_.dry_run) {
      tell([this](StreamingListener& listener) { listener.on_streaming_started(zero_); });
      run_stream();
    }
  });
  attempt([this] {
    budget_->cancel();
    for (InputSlot& slot : inputs_) slot.input->stop();
  });
  attempt([this] { tell_receiver_events(); });  // also that they have stopped
  attempt([this] {
    for (InputSlot& slot : inputs_) slot.input = nullptr;
    saving_ = nullptr;
    directory_ = nullptr;
    close_large_states();
    for (const StreamNodePtr& stream : streams_) stream->forget_before(Time::max());
    outputs_.clear();  // their functions may hold what holds this stream
  });
  end(error);
}

// When executors have lost state it is taken from the checkpoint, as after a restart.
void Driver::run_stream() {
  for (bool is_again = false;; is_again = true) {
    try {
      return run_batches(is_again ? restore() : run_missed(recover()));
    } catch (const Error& error) {
      if (!is_lost_state(std::current_exception()) || ++restores_ > restores_max) throw;
      std::fprintf(stderr, "sluice: %s\n", error.what());
    }
  }
}

void Driver::end(const std::exception_ptr& error) {
  engine_->reserve_cores(-receivers_);
  if (!options_.checkpoint.empty()) {
    ActiveDirectories& active = active_directories();
    const std::lock_guard lock(active.mutex);
    active.in_use.erase({engine_->runtime().process(), options_.checkpoint});
  }
  const std::lock_guard lock(mutex_);
  // What a stop that was asked for cut off is no error.
  if (error != nullptr && !(stop_requested_ && !graceful_)) error_ = error;
  state_ = StreamState::stopped;
  ended_ = true;
  changed_->notify_all();
}

// Checkpoints are written while there is nothing else to do.
bool Driver::wait_for_batch(Time time) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (stop_requested_) return false;
    const Time now = engine_->runtime().clock().now();
    if (now >= time) return true;
    if (saving_ != nullptr && time - now > save_gap_min) {
      lock.unlock();
      save_some();
      lock.lock();
      continue;
    }
    changed_->wait_until(lock, time);
  }
}

bool Driver::inputs_ended() {
  if (!options_.stop_at_end_of_input || inputs_.empty()) return false;
  return std::all_of(inputs_.begin(), inputs_.end(), [](const InputSlot& slot) { return slot.input->ended(); });
}

// `last` is no multiple of the interval when batches of another one came before.
Time Driver::time_after(Time last) const {
  return zero_ + ((last - zero_) / options_.interval + 1) * options_.interval;
}

void Driver::run_batches(Time last) {
  Time time = time_after(last);
  while (wait_for_batch(std::max(time, not_before_))) {
    if (options_.missed == MissedBatches::run && not_before_ != Time{}) {
      // Behind since the start: twice the normal pace until there is no more to catch up with.
      const Time now = engine_->runtime().clock().now();
      not_before_ = now - time > options_.interval ? now + options_.interval / 2 : Time{};
    }
    const bool last_one = inputs_ended();
    run_batch({time});
    time += options_.interval;
    if (last_one) {
      checkpoint_if_due(time - options_.interval, true);
      close_outputs();
      return;
    }
  }
  bool graceful = false;
  {
    const std::lock_guard lock(mutex_);
    graceful = graceful_;
  }
  if (!graceful) return;
  // Graceful (GS-01): intervals that are due, then nothing more comes in, then what has come in. The last batch does
  // not wait for its time: nothing can be added to it.
  kill_point("stream.graceful_stop_begins");
  budget_->cancel();
  for (InputSlot& slot : inputs_) {
    if (slot.input->receivers() > 0) slot.input->stop();
  }
  bool pending = false;
  for (InputSlot& slot : inputs_) pending = slot.input->pending() || pending;
  // Looked at once: a stream that cannot keep up would never come to its end.
  const Time stopped = engine_->runtime().clock().now();
  while (time <= stopped) {
    run_batch({time});
    time += options_.interval;
    pending = false;
    for (InputSlot& slot : inputs_) pending = slot.input->pending() || pending;
  }
  if (pending && !planted_bug("stop-leaves-rest")) {
    run_batch({time});
    time += options_.interval;
  }
  kill_point("stream.graceful_stop_mid");
  checkpoint_if_due(time - options_.interval, true);
  close_outputs();
}

void Driver::tell_receiver_events() {
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    for (Input::ReceiverEvent& event : inputs_[i].input->take_events()) {
      ReceiverInfo info{i, inputs_[i].stream->info->name, event.kind != Input::ReceiverEvent::Kind::stopped,
                        std::move(event.error), std::move(event.place)};
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

// What each input gives the batch, written to the journal before anything is made of it (D2).
void Driver::choose_inputs(const Batch& batch, BatchInfo& told) {
  std::vector<std::string> choices(inputs_.size());
  std::vector<std::vector<std::uint64_t>> blocks(inputs_.size());
  if (batch.recorded == nullptr && !batch.empty) {
    for (InputSlot& slot : inputs_) slot.input->prepare(batch.time);
  }
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    InputSlot& slot = inputs_[i];
    told.inputs.emplace_back();
    told.inputs[i].stream = i;
    told.inputs[i].name = slot.stream->info->name;
    if (batch.recorded != nullptr) {
      const auto chosen = batch.recorded->inputs.find(slot.identity);
      if (chosen != batch.recorded->inputs.end()) choices[i] = chosen->second;
    } else if (!batch.empty) {
      choices[i] = slot.input->choose(*engine_, batch.time, told.inputs[i]);
      blocks[i] = slot.input->chosen_blocks();
    }
  }
  if (records() && batch.recorded == nullptr) {
    kill_point("driver.before_batch_record");
    directory_->journal().batch(batch.time, choices, blocks);
    kill_point("driver.after_batch_record");
  }
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    InputSlot& slot = inputs_[i];
    slot.stream->put(*engine_, batch.time, slot.input->rdd(*engine_, slot.stream->info, choices[i], told.inputs[i]));
  }
}

JobOptions Driver::job_options(Time time) {
  JobOptions options{time, &cancelled_, {}};
  if (records()) options.gate = [this] { directory_->wait_durable(); };
  return options;
}

void Driver::try_again(const std::function<void()>& function, Time time, std::exception_ptr& error) {
  Duration pause = options_.output_retry_pause;
  for (unsigned tries = 1; error != nullptr && tries < options_.output_tries && !cancelled_; ++tries, pause *= 2) {
    {
      // A stop does not wait for the pause; a graceful one still tries.
      const Time until = engine_->runtime().clock().now() + pause;
      std::unique_lock lock(mutex_);
      while (!stop_requested_ && engine_->runtime().clock().now() < until) changed_->wait_until(lock, until);
    }
    error = Turns(*engine_, job_options(time)).run({function})[0];
  }
}

// First the RDDs of all outputs are made, one after the other, because functions given to `transform` may run actions;
// then the output functions take turns, and what they ask for is planned together.
std::vector<OutputInfo> Driver::run_outputs(const Batch& batch, std::exception_ptr& error) {
  struct Due {
    std::size_t id;
    NodePtr node;
    std::exception_ptr error;
    std::string said;
  };
  const Time time = batch.time;
  std::vector<Due> due;
  for (std::size_t id = 0; id < outputs_.size(); ++id) {
    const StreamOutput& output = outputs_[id];
    if ((time - zero_) % output.stream->slide != Duration{}) continue;
    if (!output.internal && batch.state_only) continue;
    const bool is_missing = !output.stream->kept_as.empty() || (output.stream->state && !missing_.empty());
    if (batch.missing_only && !is_missing) continue;
    const bool is_done = batch.recorded != nullptr && batch.recorded->outputs.contains(output.identity);
    if (is_done && !planted_bug("batch-twice")) continue;
    due.push_back({id, nullptr, nullptr, {}});
  }
  const auto prepare = [&] {
    for (Due& output : due) {
      try {
        StreamNode& stream = *outputs_[output.id].stream;
        output.node = stream.at(*engine_, time);
        if (batch.missing_only && stream.state) {
          const auto end = missing_.lower_bound(output.node->partitions);
          output.node = make_chosen(stream.info, output.node, {missing_.begin(), end});
        }
      } catch (...) {
        output.error = std::current_exception();
      }
    }
  };
  Turns(*engine_, {time, &cancelled_, {}}).run({prepare});
  const auto function_of = [this, time](Due& output) -> std::function<void()> {
    return [this, &output, time] {
      const StreamOutput& to = outputs_[output.id];
      output.said = to.function(output.node, batch_of(to, time));
    };
  };
  std::vector<std::function<void()>> functions;
  std::vector<Due*> playing;
  for (Due& output : due) {
    if (output.error != nullptr) continue;
    playing.push_back(&output);
    functions.push_back(function_of(output));
  }
  const std::vector<std::exception_ptr> errors = Turns(*engine_, job_options(time)).run(std::move(functions));
  for (std::size_t i = 0; i < playing.size(); ++i) playing[i]->error = errors[i];

  std::vector<OutputInfo> told;
  for (Due& due_output : due) {
    const StreamOutput& output = outputs_[due_output.id];
    if (due_output.error != nullptr) due_output.error = at_output(due_output.error, *output.info);
    // Without its state another try comes to the same.
    const bool is_lost = due_output.error != nullptr && is_lost_state(due_output.error);
    if (due_output.error != nullptr && due_output.node != nullptr && !output.internal && !is_lost) {
      try_again(function_of(due_output), time, due_output.error);
    }
    const bool owed = due_output.error != nullptr && !is_lost && owe(output, due_output.node, time);
    if (due_output.error != nullptr && !owed && error == nullptr) error = due_output.error;
    if (output.internal) continue;
    if (records() && due_output.error == nullptr) {
      kill_point("driver.before_output_record");
      directory_->journal().output(time, due_output.id, true, due_output.said);
      kill_point("driver.after_output_record");
    }
    told.push_back(
        {due_output.id, output.info->name, due_output.error == nullptr ? std::string() : text_of(due_output.error)});
  }
  return told;
}

void Driver::run_batch(const Batch& batch) {
  Clock& clock = engine_->runtime().clock();
  const Time time = batch.time;
  BatchInfo told;
  told.batch_time = time;
  told.submitted = std::min(time, clock.now());
  const bool tells = !batch.state_only;
  choose_inputs(batch, told);
  tell_receiver_events();
  if (tells) tell([&](StreamingListener& listener) { listener.on_batch_submitted(told); });
  told.started = clock.now();
  if (tells) tell([&](StreamingListener& listener) { listener.on_batch_started(told); });

  std::exception_ptr error;
  told.outputs = run_outputs(batch, error);
  told.ended = clock.now();
  const bool complete = error == nullptr || planted_bug("complete-though-failed");
  if (complete && records() && !batch.state_only) {
    kill_point("driver.before_complete_record");
    directory_->journal().complete(time);
    kill_point("driver.after_complete_record");
  }
  for (const StreamNodePtr& stream : streams_) stream->forget_before(time - stream->keep + Duration(1));
  if (error == nullptr) {
    for (InputSlot& slot : inputs_) slot.input->completed(time);
  }
  if (complete) engine_->runner().completed(time, *told.ended - *told.started, options_.interval);
  if (tells) tell([&](StreamingListener& listener) { listener.on_batch_completed(told); });
  if (error != nullptr) std::rethrow_exception(error);  // a failed batch is not complete
  last_batch_ = time;
  if (!batch.state_only) {
    restores_ = 0;
    {
      const std::lock_guard lock(mutex_);
      ++batches_completed_;  // whatever becomes of the checkpoint
    }
    if (records()) {
      deliver_owed();
      checkpoint_if_due(time, false);
    }
    const std::lock_guard lock(mutex_);
    changed_->notify_all();
  }
}

}  // namespace sluice::detail
