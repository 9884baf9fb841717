#include "sluice/cluster/executor.h"

#include <algorithm>
#include <cstdio>
#include <optional>

#include "sluice/core/local_runner.h"
#include "sluice/runtime/kill_point.h"
#include "sluice/runtime/process.h"

namespace sluice::detail {
namespace {

constexpr Duration connect_time_max = std::chrono::seconds(10);
constexpr std::size_t hello_bytes_max = 64 << 10;

Error refused(const std::string& by, const std::string& why) {
  return Error(Code::process_failed, {.why = by + " refuses this executor: " + why});
}

/// From the exception being handled.
void set_failed(TaskDone& done) {
  done.how = TaskDone::How::failed;
  done.code = static_cast<std::uint32_t>(Code::task_failed);
  try {
    throw;
  } catch (const Error& error) {
    done.code = static_cast<std::uint32_t>(error.code());
    done.why = error.details().why;
    done.operation = error.details().operation;
    Encoder where;
    encode_place(error.details().where, where);
    done.where = where.take();
  } catch (...) {
    done.why = current_exception_text();
  }
}

}  // namespace

struct Executor::Task {
  RunTask message;
  TaskProgram program;
  std::atomic<bool> cancelled{false};
  std::mutex mutex;
  /// Answers that are missing, one more while they are asked for.
  std::size_t missing = 1;
  /// An executor that has not given what it had.
  ExecutorId place_lost = 0;
  /// By shuffle and target, encoded; those that lie here are not among them.
  std::map<std::pair<std::uint64_t, std::uint32_t>, std::map<std::uint32_t, std::optional<std::string>>> fetched;
};

/// A connection that this executor has made, to ask.
struct Executor::Link {
  explicit Link(ExecutorId to_id) : to(to_id) {}
  const ExecutorId to;
  std::unique_ptr<Channel> channel;
  std::mutex mutex;
  std::unique_ptr<Condition> connected;
  bool is_connecting = true;
  bool is_broken = false;
  std::map<std::uint64_t, Answered> waiting;
};

/// A connection that another executor has made.
struct Executor::Served {
  std::unique_ptr<Channel> channel;
  ExecutorId from = 0;
};

Executor::Executor(Runtime& runtime, ExecutorOptions options)
    : runtime_(runtime),
      options_(std::move(options)),
      blocks_(runtime, {options_.memory_bytes, options_.spill_directory}),
      changed_(runtime.condition()),
      pool_(runtime.executors(options_.cores)) {}

Executor::~Executor() { close(); }

void Executor::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  for (const auto& [ticket, task] : tasks_) task->cancelled = true;
  changed_->notify_all();
  if (driver_ != nullptr) driver_->close();
  if (listener_ != nullptr) listener_->close();
  for (const auto& each : served_) each->channel->close();
  for (const auto& [id, link] : links_) {
    if (link->channel != nullptr) link->channel->close();
  }
}

void Executor::run() {
  auto listener = runtime_.transport().listen(Address{options_.listen});
  const std::string address = listener->address().text;
  {
    const std::lock_guard lock(mutex_);
    listener_ = std::move(listener);
    if (closed_) return;
  }
  register_with_driver(address);
  auto accepting = runtime_.spawn("accept", [this] { accept(); });
  auto beating = runtime_.spawn("heartbeat", [this] { beat(); });
  read_from_driver();
  close();
  accepting->join();
  beating->join();
  join_threads();
  pool_.reset();  // after the tasks that run, which may have made connections until then
  join_threads();
}

void Executor::join_threads() {
  std::vector<std::unique_ptr<Thread>> threads;
  {
    const std::lock_guard lock(mutex_);
    threads = std::move(threads_);
  }
  for (const auto& thread : threads) thread->join();
}

// Of a closed executor nothing is waited for.
void Executor::launch(std::function<void()> work) {
  const std::lock_guard lock(mutex_);
  if (!closed_) pool_->launch(std::move(work));
}

// ---- The driver

void Executor::register_with_driver(const std::string& address) {
  const Time deadline = runtime_.clock().now() + connect_time_max;
  auto channel = std::make_unique<Channel>(runtime_, runtime_.transport().connect(Address{options_.driver}, deadline));
  Hello hello;
  hello.build = build_of_program();
  hello.token = options_.token;
  hello.address = address;
  hello.cores = options_.cores;
  hello.pid = process_id();
  channel->send(encode_message(hello));
  const auto answer = channel->receive(deadline, hello_bytes_max);
  if (!answer.has_value()) throw refused("the driver", "it has closed the connection");
  const auto welcome = decode_message<Welcome>(*answer);
  if (!welcome.refusal.empty()) throw refused("the driver", welcome.refusal);
  id_ = welcome.id;
  hash_seed_ = welcome.hash_seed;
  check_views_ = welcome.check_views;
  if (check_views_) Arena::set_poison_released(true);
  const std::lock_guard lock(mutex_);
  tracks_ = welcome.track_state;
  if (tracks_) states_.track();
  driver_ = std::move(channel);
  if (closed_) driver_->close();
}

void Executor::beat() {
  const std::string message = encode_message(Heartbeat{});
  for (;;) {
    {
      const Time next = runtime_.clock().now() + options_.heartbeat;
      std::unique_lock lock(mutex_);
      while (!closed_ && runtime_.clock().now() < next) changed_->wait_until(lock, next);
      if (closed_) return;
    }
    tell_driver(message);
  }
}

// What cannot be told is nothing to the driver any more (X1); that the connection has ended is seen by who reads it.
void Executor::tell_driver(std::string_view message) {
  try {
    driver_->send(message);
  } catch (const Error&) {
    driver_->close();
  }
}

void Executor::read_from_driver() {
  try {
    while (auto message = driver_->receive()) {
      switch (message_kind(*message)) {
        case Peers::kind: set_peers(decode_message<Peers>(*message)); break;
        case RunTask::kind: start(decode_message<RunTask>(*message)); break;
        case Cancel::kind: {
          const auto cancel = decode_message<Cancel>(*message);
          const std::lock_guard lock(mutex_);
          for (const auto& [ticket, task] : tasks_) {
            if (ticket <= cancel.ticket) task->cancelled = true;
          }
          break;
        }
        case Forget::kind: {
          const auto forget = decode_message<Forget>(*message);
          for (const std::uint64_t shuffle : forget.shuffles) shuffles_.close(shuffle);
          for (const std::uint64_t owner : forget.block_owners) blocks_.remove_owner(owner);
          forget_states(forget.states);
          const std::lock_guard lock(mutex_);
          for (const std::uint64_t shuffle : forget.shuffles) kernels_.erase(shuffle);
          break;
        }
        case StateRequest::kind: {
          const auto request = decode_message<StateRequest>(*message);
          bool later = false;
          const StateReply reply = handle(request, later);
          if (!later) tell_driver(encode_message(reply));
          break;
        }
        case Shutdown::kind: return;
        default: throw Error(Code::corrupt_data, {.why = "a message of the driver of unknown kind"});
      }
    }
  } catch (const Error& error) {
    const std::lock_guard lock(mutex_);
    if (!closed_) std::fprintf(stderr, "sluice: executor %u: the driver is lost: %s\n", id_, error.what());
  }
}

void Executor::set_peers(Peers peers) {
  const std::lock_guard lock(mutex_);
  if (peers.version < peers_version_) return;
  peers_version_ = peers.version;
  peers_.clear();
  for (Peers::Peer& peer : peers.peers) peers_[peer.id] = std::move(peer.address);
  for (const auto& [id, link] : links_) {
    if (!peers_.contains(id) && link->channel != nullptr) link->channel->close();
  }
  for (const auto& each : served_) {
    if (each->from != 0 && !peers_.contains(each->from)) each->channel->close();
  }
}

// ---- Tasks

void Executor::start(RunTask&& message) {
  auto task = std::make_shared<Task>();
  task->message = std::move(message);
  {
    const std::lock_guard lock(mutex_);
    tasks_[task->message.ticket] = task;
  }
  launch([this, task] { prepare(task); });
}

void Executor::prepare(const TaskPtr& task) {
  const RunTask& message = task->message;
  TaskDone done;
  try {
    Decoder in(message.program);
    task->program = TaskProgram::decode_from(in);
    for (const auto& [shuffle, maps] : message.writes) shuffles_.open(shuffle, maps);
    {
      const std::lock_guard lock(mutex_);
      for (const TaskOutput& output : task->program.outputs) {
        if (const auto* write = std::get_if<WriteShuffle>(&output.what)) kernels_[write->shuffle] = write->kernel;
      }
    }
    for (const TaskStep& step : task->program.steps) {
      const auto* zip = std::get_if<RunZip>(&step.what);
      if (zip == nullptr || !zip->state) continue;
      const std::uint64_t operation = zip->state->operation();
      const auto& known = message.must_exist;
      if (std::find(known.begin(), known.end(), operation) == known.end()) continue;
      if (states_.find(operation, step.partition) == nullptr) return place_lost(task, id_);
    }
    for (const TaskStep& step : task->program.steps) {
      const auto* read = std::get_if<ReadShuffle>(&step.what);
      if (read == nullptr) continue;
      const auto at = std::find_if(message.reads.begin(), message.reads.end(),
                                   [&](const ShuffleAt& each) { return each.shuffle == read->shuffle; });
      if (at == message.reads.end()) throw Error(Code::corrupt_data, {.why = "a task without its shuffle's places"});
      std::map<ExecutorId, std::vector<std::uint32_t>> by_place;
      for (std::uint32_t map = 0; map < at->executors.size(); ++map) by_place[at->executors[map]].push_back(map);
      for (auto& [place, maps] : by_place) {
        if (place != id_) fetch(task, place, read->shuffle, step.partition, std::move(maps));
      }
    }
  } catch (...) {
    set_failed(done);
    return report(task, done);
  }
  std::size_t missing = 0;
  {
    const std::lock_guard lock(task->mutex);
    missing = --task->missing;
  }
  if (missing == 0) execute(task);
}

void Executor::fetch(const TaskPtr& task, ExecutorId from, std::uint64_t shuffle, std::uint32_t target,
                     std::vector<std::uint32_t> maps) {
  {
    const std::lock_guard lock(task->mutex);
    ++task->missing;
  }
  const Fetch request{0, shuffle, target, maps};
  ask(from, request, [this, task, from, shuffle, target, maps = std::move(maps)](std::optional<std::string_view> answer) {
    bool is_last = false;
    {
      const std::lock_guard lock(task->mutex);
      is_last = --task->missing == 0;
      Fetched fetched;
      if (answer.has_value()) fetched = decode_message<Fetched>(*answer);
      if (!fetched.found || fetched.buckets.size() != maps.size()) {
        task->place_lost = from;
      } else {
        auto& by_map = task->fetched[{shuffle, target}];
        for (std::size_t i = 0; i < maps.size(); ++i) by_map[maps[i]] = std::move(fetched.buckets[i]);
      }
    }
    if (!is_last) return;
    launch([this, task] { execute(task); });
  });
}

void Executor::execute(const TaskPtr& task) {
  if (task->place_lost != 0) return place_lost(task, task->place_lost);
  const RunTask& message = task->message;
  BucketsByTarget buckets;
  TaskOutcome outcome;
  try {
    for (const TaskStep& step : task->program.steps) {
      const auto* read = std::get_if<ReadShuffle>(&step.what);
      if (read == nullptr) continue;
      const auto at = std::find_if(message.reads.begin(), message.reads.end(),
                                   [&](const ShuffleAt& each) { return each.shuffle == read->shuffle; });
      auto& fetched = task->fetched[{read->shuffle, step.partition}];
      auto& all = buckets[{read->shuffle, step.partition}];
      for (std::uint32_t map = 0; map < at->executors.size(); ++map) {
        if (at->executors[map] == id_) {
          auto here = shuffles_.find(read->shuffle, map, step.partition);
          if (!here.has_value()) return place_lost(task, id_);
          all.push_back(std::move(*here));
          continue;
        }
        std::optional<std::string>& bytes = fetched.at(map);
        if (!bytes.has_value()) {
          all.push_back(nullptr);
          continue;
        }
        Decoder in(*bytes);
        all.push_back(read->kernel->decode_bucket(in));
        in.expect_end();
        bytes.reset();
      }
    }
  } catch (...) {
    outcome.error = std::current_exception();
  }
  if (outcome.error == nullptr) {
    TaskId id;
    id.job = message.job;
    id.stage = message.stage;
    id.task = message.task;
    id.attempt = message.attempt;
    id.batch = message.batch;
    TaskEnvironment environment{runtime_, blocks_, shuffles_, states_, hash_seed_, check_views_, &buckets};
    outcome = attempt_task(task->program, id, environment, &task->cancelled);
  }
  TaskDone done;
  done.ticket = message.ticket;
  if (outcome.lost.has_value()) {
    done.how = TaskDone::How::block_lost;
    done.block_owner = outcome.lost->owner;
    done.block_index = outcome.lost->index;
    return report(task, done);
  }
  if (outcome.error != nullptr) {
    done.failed.assign(outcome.failed.begin(), outcome.failed.end());
    try {
      std::rethrow_exception(outcome.error);
    } catch (...) {
      set_failed(done);
    }
    return report(task, done);
  }
  Encoder result;
  encode_result(outcome.result, result);
  done.result = result.take();
  copy_changes(task, std::move(done));
}

void Executor::place_lost(const TaskPtr& task, ExecutorId place) {
  TaskDone done;
  done.how = TaskDone::How::place_lost;
  done.place = place;
  report(task, done);
}

void Executor::report(const TaskPtr& task, const TaskDone& done) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.erase(task->message.ticket);
  }
  TaskDone message = done;
  message.ticket = task->message.ticket;
  tell_driver(encode_message(message));
}

// ---- Copies of state

// A state that was asked again for the batch it had has not changed: its copy has had the changes.
void Executor::copy_changes(const TaskPtr& task, TaskDone done) {
  struct Sent {
    std::mutex mutex;
    std::size_t missing = 1;
    bool failed = false;
    TaskDone done;
  };
  const auto sent = std::make_shared<Sent>();
  sent->done = std::move(done);
  const ExecutorId to = task->message.copy_at;
  const auto count_down = [this, task, sent, to](bool has_failed) {
    {
      const std::lock_guard lock(sent->mutex);
      sent->failed = sent->failed || has_failed;
      if (--sent->missing > 0) return;
    }
    if (sent->failed) sent->done.place = to;
    report(task, sent->done);
  };
  for (const TaskStep& step : task->program.steps) {
    const auto* zip = std::get_if<RunZip>(&step.what);
    if (zip == nullptr || !zip->state || to == 0) continue;
    const auto state = states_.find(zip->state->operation(), step.partition);
    StateChanges changes;
    changes.operation = zip->state->operation();
    changes.partition = step.partition;
    changes.batch = state->last_batch();
    state->freeze();
    while (state->write(~std::size_t{0}, changes.blocks)) {
    }
    const auto& known = task->message.must_exist;
    if (std::find(known.begin(), known.end(), changes.operation) == known.end()) {
      Encoder maker;
      zip->state.encode_to(maker);
      changes.maker = maker.take();
    }
    kill_point("executor.before_copy");
    {
      const std::lock_guard lock(sent->mutex);
      ++sent->missing;
    }
    ask(to, std::move(changes), [count_down](std::optional<std::string_view> answer) {
      count_down(!answer.has_value() || !decode_message<StateChanged>(*answer).error.empty());
    });
  }
  count_down(false);
}

void Executor::forget_states(const std::vector<StateKey>& states) {
  const std::lock_guard lock(copies_mutex_);
  for (const StateKey& key : states) {
    copies_.erase(key);
    states_.remove(key.first, key.second);
  }
}

void Executor::settle(Copy& copy, std::int64_t batch) {
  if (copy.waiting_batch == 0 || copy.waiting_batch > batch) return;
  copy.state->apply(copy.waiting, copy.waiting_batch);
  copy.waiting.clear();
  copy.waiting_batch = 0;
}

void Executor::take_changes(StateChanges&& changes) {
  const StateKey key{changes.operation, changes.partition};
  const std::lock_guard lock(copies_mutex_);
  if (!changes.maker.empty()) {
    Decoder in(changes.maker);
    const auto maker = Shipped<StateMaker>::decode_from(in);
    Copy copy{maker->make(changes.partition, hash_seed_), 0, {}};
    if (tracks_) copy.state->track();
    copies_[key] = std::move(copy);
  }
  const auto found = copies_.find(key);
  if (found == copies_.end()) throw Error(Code::state_lost, {.why = "no copy of this state is kept here"});
  Copy& copy = found->second;
  // The same batch again: it was asked for again, and nothing has changed since.
  if (copy.waiting_batch == changes.batch || copy.state->last_batch() == changes.batch) return;
  settle(copy, changes.batch);
  copy.waiting_batch = changes.batch;
  copy.waiting = std::move(changes.blocks);
  if (changes.complete) settle(copy, changes.batch);
}

std::shared_ptr<StatePartition> Executor::state_for(const StateRequest& request) {
  if (request.of_copy) {
    const std::lock_guard lock(copies_mutex_);
    const auto found = copies_.find({request.operation, request.partition});
    if (found == copies_.end()) return nullptr;
    settle(found->second, request.number);
    return found->second.state;
  }
  return states_.find(request.operation, request.partition);
}

StateReply Executor::handle(const StateRequest& request, bool& later) {
  using What = StateRequest::What;
  StateReply reply;
  reply.request = request.request;
  try {
    const StateKey key{request.operation, request.partition};
    if (request.what == What::track) {
      const std::lock_guard lock(copies_mutex_);
      tracks_ = true;
      states_.track();
      return reply;
    }
    if (request.what == What::make) {
      Decoder in(request.maker);
      const auto maker = Shipped<StateMaker>::decode_from(in);
      auto made = maker->make(request.partition, hash_seed_);
      if (!request.of_copy) {
        states_.put(request.operation, request.partition, std::move(made));
        return reply;
      }
      const std::lock_guard lock(copies_mutex_);
      if (tracks_) made->track();
      copies_[key] = Copy{std::move(made), 0, {}};
      return reply;
    }
    if (request.what == What::promote || request.what == What::demote) {
      change_role(request);
      return reply;
    }
    const auto state = state_for(request);
    if (state == nullptr) {
      // Of an operator that had no batch yet.
      const bool may_lack = request.what == What::freeze || request.what == What::last_batch ||
                            request.what == What::mark_all;
      if (!may_lack) throw Error(Code::state_lost, {.why = "this state is not here"});
      return reply;
    }
    switch (request.what) {
      case What::load:
        for (const StateBlock& block : request.blocks) state->load(block, request.written);
        break;
      case What::loaded: state->loaded(request.number); break;
      case What::freeze:
        drop_frozen(key, *state);
        state->freeze();
        reply.number = static_cast<std::int64_t>(request.request);
        {
          const std::lock_guard lock(copies_mutex_);
          frozen_[key] = reply.number;
        }
        break;
      case What::write:
        {
          const std::lock_guard lock(copies_mutex_);
          const auto frozen = frozen_.find(key);
          if (frozen == frozen_.end() || frozen->second != request.frozen) {
            throw Error(Code::state_lost, {.why = "what was frozen of this state has been dropped"});
          }
        }
        reply.more = state->write(static_cast<std::size_t>(request.number), reply.blocks);
        break;
      case What::last_batch: reply.number = state->last_batch(); break;
      case What::mark_all: state->mark_all(); break;
      case What::copy:
        later = true;
        send_whole(request);
        break;
      default: throw Error(Code::corrupt_data, {.why = "an unknown request about state"});
    }
  } catch (const Error& error) {
    reply.error = error.what();
    later = false;
  }
  return reply;
}

// What a checkpoint has not written of it is not written any more.
void Executor::drop_frozen(const StateKey& key, StatePartition& state) {
  {
    const std::lock_guard lock(copies_mutex_);
    frozen_.erase(key);
  }
  std::vector<StateBlock> dropped;
  while (state.write(~std::size_t{0}, dropped)) {
  }
}

void Executor::change_role(const StateRequest& request) {
  const StateKey key{request.operation, request.partition};
  if (request.what == StateRequest::What::demote) {
    auto state = states_.find(request.operation, request.partition);
    if (state == nullptr) throw Error(Code::state_lost, {.why = "this state is not here"});
    drop_frozen(key, *state);
    states_.remove(request.operation, request.partition);
    const std::lock_guard lock(copies_mutex_);
    copies_[key] = Copy{std::move(state), 0, {}};
    return;
  }
  std::shared_ptr<StatePartition> state;
  {
    const std::lock_guard lock(copies_mutex_);
    const auto found = copies_.find(key);
    if (found == copies_.end()) throw Error(Code::state_lost, {.why = "no copy of this state is kept here"});
    settle(found->second, request.number);
    state = std::move(found->second.state);
    copies_.erase(found);
  }
  drop_frozen(key, *state);
  states_.put(request.operation, request.partition, std::move(state));
}

void Executor::send_whole(const StateRequest& request) {
  const auto state = states_.find(request.operation, request.partition);
  StateChanges changes;
  changes.operation = request.operation;
  changes.partition = request.partition;
  changes.batch = state->last_batch();
  changes.complete = true;
  changes.maker = request.maker;
  drop_frozen({request.operation, request.partition}, *state);
  state->mark_all();
  state->freeze();
  while (state->write(~std::size_t{0}, changes.blocks)) {
  }
  const std::uint64_t number = request.request;
  ask(static_cast<ExecutorId>(request.number), std::move(changes),
      [this, number](std::optional<std::string_view> answer) {
        StateReply reply;
        reply.request = number;
        reply.error = answer.has_value() ? decode_message<StateChanged>(*answer).error : "the connection has ended";
        tell_driver(encode_message(reply));
      });
}

// ---- Other executors

void Executor::accept() {
  while (auto connection = listener_->accept(Time::max())) {
    auto served = std::make_shared<Served>();
    served->channel = std::make_unique<Channel>(runtime_, std::move(connection));
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    served_.push_back(served);
    threads_.push_back(runtime_.spawn("serve", [this, served] { serve(served); }));
  }
}

void Executor::serve(const std::shared_ptr<Served>& served) {
  Channel& channel = *served->channel;
  try {
    const auto first = channel.receive(runtime_.clock().now() + connect_time_max, hello_bytes_max);
    if (first.has_value()) {
      const auto hello = decode_message<Hello>(*first);
      Welcome welcome;
      welcome.refusal = refusal_of(hello, options_.token);
      {
        const std::lock_guard lock(mutex_);
        served->from = hello.id;
        if (!peers_.contains(hello.id)) welcome.refusal = "the driver has not told of it";
      }
      channel.send(encode_message(welcome));
      while (welcome.refusal.empty()) {
        const auto message = channel.receive();
        if (!message.has_value()) break;
        channel.send(answer(*message));
      }
    }
  } catch (const Error&) {
    // The one that asks sees that the connection has ended, and says so to the driver.
  }
  channel.close();
  const std::lock_guard lock(mutex_);
  served_.remove(served);
}

std::string Executor::answer(std::string_view message) {
  if (message_kind(message) == StateChanges::kind) {
    auto changes = decode_message<StateChanges>(message);
    StateChanged changed;
    changed.request = changes.request;
    try {
      take_changes(std::move(changes));
    } catch (const Error& error) {
      changed.error = error.what();
    }
    return encode_message(changed);
  }
  const auto fetch = decode_message<Fetch>(message);
  Fetched fetched;
  fetched.request = fetch.request;
  Shipped<ShuffleKernel> kernel;
  {
    const std::lock_guard lock(mutex_);
    const auto found = kernels_.find(fetch.shuffle);
    if (found != kernels_.end()) kernel = found->second;
  }
  fetched.found = static_cast<bool>(kernel);
  for (const std::uint32_t map : fetch.maps) {
    const auto bucket = shuffles_.find(fetch.shuffle, map, fetch.target);
    fetched.found = fetched.found && bucket.has_value();
    if (!fetched.found) break;
    fetched.buckets.emplace_back();
    if (*bucket == nullptr) continue;
    Encoder out;
    kernel->encode_bucket(**bucket, out);
    fetched.buckets.back() = out.take();
  }
  return encode_message(fetched);
}

std::shared_ptr<Executor::Link> Executor::link_to(ExecutorId id) {
  std::shared_ptr<Link> link;
  std::string address;
  bool is_mine = false;
  {
    const std::lock_guard lock(mutex_);
    const auto peer = peers_.find(id);
    if (closed_ || peer == peers_.end()) throw Error(Code::network_failed, {.why = "that executor is gone"});
    address = peer->second;
    auto& known = links_[id];
    if (known == nullptr) {
      known = std::make_shared<Link>(id);
      known->connected = runtime_.condition();
      is_mine = true;
    }
    link = known;
  }
  if (!is_mine) {
    std::unique_lock lock(link->mutex);
    while (link->is_connecting) link->connected->wait(lock);
    if (link->is_broken) throw Error(Code::network_failed, {.why = "executor " + std::to_string(id) + " is lost"});
    return link;
  }
  const auto connected = [&](bool is_broken) {
    const std::lock_guard lock(link->mutex);
    link->is_connecting = false;
    link->is_broken = is_broken;
    link->connected->notify_all();
  };
  try {
    const Time deadline = runtime_.clock().now() + connect_time_max;
    auto channel = std::make_unique<Channel>(runtime_, runtime_.transport().connect(Address{address}, deadline));
    Hello hello;
    hello.build = build_of_program();
    hello.token = options_.token;
    hello.id = id_;
    channel->send(encode_message(hello));
    const auto answer = channel->receive(deadline, hello_bytes_max);
    if (!answer.has_value()) throw refused("executor " + std::to_string(id), "it has closed the connection");
    const auto welcome = decode_message<Welcome>(*answer);
    if (!welcome.refusal.empty()) throw refused("executor " + std::to_string(id), welcome.refusal);
    const std::lock_guard lock(mutex_);
    link->channel = std::move(channel);
    if (closed_ || !peers_.contains(id)) link->channel->close();
    threads_.push_back(runtime_.spawn("answers", [this, link] { read_answers(link); }));
  } catch (...) {
    connected(true);
    const std::lock_guard lock(mutex_);
    if (const auto known = links_.find(id); known != links_.end() && known->second == link) links_.erase(known);
    throw;
  }
  connected(false);
  return link;
}

template <class M>
void Executor::ask(ExecutorId id, M message, Answered answered) {
  std::shared_ptr<Link> link;
  {
    const std::lock_guard lock(mutex_);
    message.request = ++last_request_;
  }
  try {
    link = link_to(id);
  } catch (const Error&) {
    return answered(std::nullopt);
  }
  bool is_broken = false;
  {
    const std::lock_guard lock(link->mutex);
    is_broken = link->is_broken;
    if (!is_broken) link->waiting.emplace(message.request, std::move(answered));
  }
  if (is_broken) return answered(std::nullopt);
  try {
    link->channel->send(encode_message(message));
  } catch (const Error&) {
    link->channel->close();  // its reader answers all that wait
  }
}

void Executor::read_answers(const std::shared_ptr<Link>& link) {
  try {
    while (const auto message = link->channel->receive()) {
      const std::uint64_t request = message_kind(*message) == Fetched::kind
                                        ? Decoder(std::string_view(*message).substr(1)).u64()
                                        : decode_message<StateChanged>(*message).request;
      Answered answered;
      {
        const std::lock_guard lock(link->mutex);
        const auto waiting = link->waiting.extract(request);
        if (!waiting.empty()) answered = std::move(waiting.mapped());
      }
      if (answered) answered(*message);
    }
  } catch (const Error&) {
    // As the end of the connection: who waits is told below.
  }
  link->channel->close();
  std::map<std::uint64_t, Answered> waiting;
  {
    const std::lock_guard lock(link->mutex);
    link->is_broken = true;
    waiting = std::move(link->waiting);
  }
  {
    const std::lock_guard lock(mutex_);
    if (const auto known = links_.find(link->to); known != links_.end() && known->second == link) links_.erase(known);
  }
  for (auto& [request, answered] : waiting) answered(std::nullopt);
}

}  // namespace sluice::detail
