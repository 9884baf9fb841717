#include "sluice/cluster/scheduler.h"

#include <algorithm>
#include <cstdio>

#include "sluice/core/hash.h"

namespace sluice::detail {
namespace {

constexpr Duration hello_time_max = std::chrono::seconds(10);
constexpr std::size_t hello_bytes_max = 64 << 10;
/// How often a flag that wakes nobody is looked at.
constexpr Duration look_again = std::chrono::milliseconds(10);
/// State is sent to executors in pieces of about this size.
constexpr std::size_t load_bytes = 1 << 20;

std::string new_token(Runtime& runtime) {
  Encoder out;
  for (int i = 0; i < 4; ++i) out.u64(runtime.random_seed());
  return out.take();
}

Error error_of(const TaskDone& done) {
  ErrorDetails details{.why = done.why, .operation = done.operation};
  if (!done.where.empty()) {
    Decoder where(done.where);
    details.where = decode_place(where);
  }
  return {static_cast<Code>(done.code), std::move(details)};
}

std::exception_ptr lost_state() {
  return std::make_exception_ptr(
      Error(Code::state_lost, {.why = "the executors that had a partition of it have ended, and no copy is left"}));
}

}  // namespace

struct ClusterScheduler::Handle {
  ExecutorId id = 0;
  std::shared_ptr<Channel> channel;
  std::string address;
  std::uint32_t cores = 0;
  std::int64_t pid = 0;
  Time heard{};
  /// All others know of it.
  bool is_ready = false;
};

struct ClusterScheduler::Round {
  explicit Round(std::size_t tasks) : outcomes(tasks) {}
  std::vector<TaskOutcome> outcomes;
  /// Who ran each task last.
  std::map<std::uint32_t, ExecutorId> ran_at;
  std::size_t left = 0;
  /// An executor was lost while it ran one of them.
  bool has_lost_executor = false;
};

struct ClusterScheduler::Ticket {
  std::shared_ptr<Round> round;
  std::uint32_t task = 0;
  ExecutorId executor = 0;
};

struct ClusterScheduler::Call {
  ExecutorId executor = 0;
  bool is_done = false;
  bool is_lost = false;
  StateReply reply;
};

// ---- Executors come and go

ClusterScheduler::ClusterScheduler(Engine& engine, std::unique_ptr<ClusterManager> manager,
                                   const ClusterOptions& options)
    : engine_(engine),
      runtime_(engine.runtime()),
      options_(options),
      token_(new_token(runtime_)),
      listener_(runtime_.transport().listen(manager->driver_address())),
      changed_(runtime_.condition()),
      slots_(key_groups),
      manager_(std::move(manager)) {
  threads_.push_back(runtime_.spawn("accept", [this] { accept(); }));
  threads_.push_back(runtime_.spawn("monitor", [this] { monitor(); }));
  ExecutorOptions each;
  each.driver = listener_->address().text;
  each.token = token_;
  each.cores = options_.cores;
  each.memory_bytes = options_.memory_bytes;
  each.spill_directory = options_.spill_directory;
  each.heartbeat = options_.executor_timeout / 5;
  manager_->run_executors(each, options_.executors);
  std::size_t came = 0;
  {
    std::unique_lock lock(mutex_);
    if (wait_for_executors(lock, options_.executors)) return;
    came = ready().size();
  }
  stop();
  throw Error(Code::no_executors, {.why = std::to_string(came) + " of " + std::to_string(options_.executors) +
                                          " executors have come within " + to_string(options_.start_time_max)});
}

ClusterScheduler::~ClusterScheduler() { stop(); }

void ClusterScheduler::stop() {
  std::vector<HandlePtr> executors;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_->notify_all();
    for (const auto& [id, executor] : executors_) executors.push_back(executor);
  }
  for (const HandlePtr& executor : executors) send(executor, encode_message(Shutdown{}));
  listener_->close();
  {
    const std::lock_guard lock(mutex_);
    for (const auto& channel : channels_) channel->close();
  }
  manager_ = nullptr;
  for (;;) {
    std::vector<std::unique_ptr<Thread>> threads;
    {
      const std::lock_guard lock(mutex_);
      threads = std::move(threads_);
    }
    if (threads.empty()) return;
    for (const auto& thread : threads) thread->join();
  }
}

void ClusterScheduler::accept() {
  while (auto connection = listener_->accept(Time::max())) {
    auto channel = std::make_shared<Channel>(runtime_, std::move(connection));
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    channels_.push_back(channel);
    threads_.push_back(runtime_.spawn("executor connection", [this, channel] { serve(channel); }));
  }
}

void ClusterScheduler::serve(const std::shared_ptr<Channel>& channel) {
  HandlePtr executor;
  try {
    executor = welcome(channel);
    while (executor != nullptr) {
      const auto message = channel->receive();
      if (!message.has_value()) break;
      {
        const std::lock_guard lock(mutex_);
        executor->heard = runtime_.clock().now();
      }
      switch (message_kind(*message)) {
        case Heartbeat::kind: break;
        case TaskDone::kind: done(executor, decode_message<TaskDone>(*message)); break;
        case StateReply::kind: {
          auto reply = decode_message<StateReply>(*message);
          const std::lock_guard lock(mutex_);
          const auto waiting = calls_.find(reply.request);
          if (waiting == calls_.end() || waiting->second->executor != executor->id) break;
          waiting->second->reply = std::move(reply);
          waiting->second->is_done = true;
          changed_->notify_all();
          break;
        }
        default: throw Error(Code::corrupt_data, {.why = "a message of an executor of unknown kind"});
      }
    }
  } catch (const Error& error) {
    const std::lock_guard lock(mutex_);
    if (!stopping_) std::fprintf(stderr, "sluice: connection of an executor: %s\n", error.what());
  }
  channel->close();
  if (executor != nullptr) lost(executor);
  const std::lock_guard lock(mutex_);
  channels_.remove(channel);
}

ClusterScheduler::HandlePtr ClusterScheduler::welcome(const std::shared_ptr<Channel>& channel) {
  const auto first = channel->receive(runtime_.clock().now() + hello_time_max, hello_bytes_max);
  if (!first.has_value()) return nullptr;
  const auto hello = decode_message<Hello>(*first);
  Welcome answer;
  answer.refusal = refusal_of(hello, token_);
  if (answer.refusal.empty() && (hello.cores == 0 || hello.address.empty())) answer.refusal = "it is no executor";
  if (!answer.refusal.empty()) {
    channel->send(encode_message(answer));
    return nullptr;
  }
  const auto executor = std::make_shared<Handle>();
  executor->channel = channel;
  executor->address = hello.address;
  executor->cores = hello.cores;
  executor->pid = hello.pid;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return nullptr;
    executor->id = ++last_id_;
    answer.track_state = tracks_ || options_.copy_state;
  }
  answer.id = executor->id;
  answer.hash_seed = engine_.options().hash_seed;
  answer.check_views = engine_.options().check_views;
  send(executor, encode_message(answer));
  {
    // Nothing is said to it before its welcome.
    const std::lock_guard lock(mutex_);
    executor->heard = runtime_.clock().now();
    executors_[executor->id] = executor;
  }
  tell_peers();
  const std::lock_guard lock(mutex_);
  executor->is_ready = true;
  changed_->notify_all();
  return executor;
}

// An executor that cannot be sent to is lost: who reads from it sees that.
void ClusterScheduler::send(const HandlePtr& executor, std::string_view message) {
  try {
    executor->channel->send(message);
  } catch (const Error&) {
    executor->channel->close();
  }
}

void ClusterScheduler::tell_peers() {
  Peers peers;
  std::vector<HandlePtr> executors;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    peers.version = ++peers_version_;
    for (const auto& [id, executor] : executors_) {
      peers.peers.push_back({id, executor->address});
      executors.push_back(executor);
    }
  }
  const std::string message = encode_message(peers);
  for (const HandlePtr& executor : executors) send(executor, message);
}

void ClusterScheduler::monitor() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const Time now = runtime_.clock().now();
    for (const auto& [id, executor] : executors_) {
      if (now - executor->heard < options_.executor_timeout) continue;
      std::fprintf(stderr, "sluice: executor %u has not been heard of for %s and is given up\n", id,
                   to_string(options_.executor_timeout).c_str());
      executor->channel->close();
    }
    const Time next = now + options_.executor_timeout / 5;
    while (!stopping_ && runtime_.clock().now() < next) changed_->wait_until(lock, next);
  }
}

void ClusterScheduler::lost(const HandlePtr& executor) {
  {
    const std::lock_guard lock(mutex_);
    const ExecutorId id = executor->id;
    executors_.erase(id);
    if (stopping_) {
      // Nobody asks any more.
    } else {
      std::fprintf(stderr, "sluice: executor %u (process %lld) is lost\n", id, static_cast<long long>(executor->pid));
    }
    for (auto& [shuffle, places] : shuffle_places_) {
      for (std::size_t map = 0; map < places.size(); ++map) {
        if (places[map] != id) continue;
        places[map] = 0;
        engine_.shuffles().lose(shuffle, map);
      }
    }
    for (auto place = block_places_.begin(); place != block_places_.end();) {
      if (place->second == id) {
        engine_.blocks().lose(place->first);
        place = block_places_.erase(place);
      } else {
        ++place;
      }
    }
    for (Slot& slot : slots_) {
      if (slot.copy == id) {
        slot.copy = 0;
        state_moved_ = state_moved_ || !slot.states.empty();
      }
      if (slot.owner != id) continue;
      slot.owner = slot.copy;
      slot.copy = 0;
      slot.promote = slot.owner != 0;
      slot.lost = slot.lost || (slot.owner == 0 && !slot.states.empty());
      state_moved_ = state_moved_ || !slot.states.empty();
    }
    for (auto ticket = tickets_.begin(); ticket != tickets_.end();) {
      if (ticket->second.executor != id) {
        ++ticket;
        continue;
      }
      Round& round = *ticket->second.round;
      round.outcomes[ticket->second.task].place_lost = true;
      round.has_lost_executor = true;
      --round.left;
      ticket = tickets_.erase(ticket);
    }
    for (const auto& [number, call] : calls_) call->is_lost = call->is_lost || call->executor == id;
    changed_->notify_all();
  }
  tell_peers();
}

std::vector<ExecutorId> ClusterScheduler::ready() const {
  std::vector<ExecutorId> ids;
  for (const auto& [id, executor] : executors_) {
    if (executor->is_ready) ids.push_back(id);
  }
  return ids;
}

bool ClusterScheduler::wait_for_executors(std::unique_lock<std::mutex>& lock, std::size_t count) {
  const Time deadline = runtime_.clock().now() + options_.start_time_max;
  while (ready().size() < count) {
    if (!changed_->wait_until(lock, deadline) && runtime_.clock().now() >= deadline) return false;
  }
  return true;
}

std::size_t ClusterScheduler::executors() {
  const std::lock_guard lock(mutex_);
  return ready().size();
}

std::vector<std::int64_t> ClusterScheduler::pids() {
  const std::lock_guard lock(mutex_);
  std::vector<std::int64_t> all;
  for (const auto& [id, executor] : executors_) all.push_back(executor->pid);
  return all;
}

// ---- Tasks

void ClusterScheduler::reserve_cores(long cores) {
  const std::lock_guard lock(mutex_);
  const long total = static_cast<long>(options_.executors * options_.cores);
  const long reserved = static_cast<long>(reserved_cores_) + cores;
  if (total - reserved < 1) {
    throw Error(Code::too_few_cores,
                {.why = std::to_string(options_.executors) + " executors with " + std::to_string(options_.cores) +
                        " cores, " + std::to_string(reserved) + " receivers: " + std::to_string(total - reserved) +
                        " cores left for tasks"});
  }
  reserved_cores_ = static_cast<std::size_t>(reserved);
}

std::vector<TaskOutcome> ClusterScheduler::run(const std::vector<TaskProgram>& tasks, const TaskId& stage,
                                               const std::atomic<bool>* cancelled) {
  const auto round = std::make_shared<Round>(tasks.size());
  std::vector<std::uint32_t> todo(tasks.size());
  for (std::uint32_t i = 0; i < tasks.size(); ++i) todo[i] = i;
  std::vector<FailedOutputs> failed(tasks.size());
  for (unsigned attempt = 0; !todo.empty(); ++attempt) {
    promote_copies();
    forget();
    for (const std::uint32_t task : todo) dispatch(tasks[task], stage, task, attempt, round);
    wait(*round, cancelled);
    std::vector<std::uint32_t> again;
    for (const std::uint32_t task : todo) {
      TaskOutcome& outcome = round->outcomes[task];
      if (outcome.succeeded()) adopt(tasks[task], outcome, round->ran_at[task]);
      if (outcome.error == nullptr) continue;
      failed_attempts_.fetch_add(1);
      // Where nobody knows (the task did not even travel), it is all of them.
      for (std::uint32_t i = 0; outcome.failed.empty() && i < tasks[task].outputs.size(); ++i) failed[task].insert(i);
      failed[task].insert(outcome.failed.begin(), outcome.failed.end());
      outcome.failed = failed[task];
      if (outcome.cancelled || attempt + 1 >= options_.task_tries || is_final(outcome)) continue;
      outcome = {};
      again.push_back(task);
    }
    todo = std::move(again);
  }
  std::unique_lock lock(mutex_);
  if (!round->has_lost_executor) return std::move(round->outcomes);
  // A task that ends the processes that run it would go on with that for ever.
  if (++losses_[stage.job] < options_.task_tries) return std::move(round->outcomes);
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    TaskOutcome& outcome = round->outcomes[i];
    if (!outcome.place_lost) continue;
    outcome.place_lost = false;
    outcome.error = std::make_exception_ptr(Error(
        Code::process_failed, {.why = "executors ended " + std::to_string(losses_[stage.job]) + " times under this job"}));
    for (std::uint32_t output = 0; output < tasks[i].outputs.size(); ++output) outcome.failed.insert(output);
  }
  return std::move(round->outcomes);
}

// Another attempt would come to the same.
bool ClusterScheduler::is_final(const TaskOutcome& outcome) {
  try {
    std::rethrow_exception(outcome.error);
  } catch (const Error& error) {
    return error.code() == Code::state_lost || error.code() == Code::no_executors;
  } catch (...) {
    return false;
  }
}

void ClusterScheduler::wait(Round& round, const std::atomic<bool>* cancelled) {
  std::unique_lock lock(mutex_);
  bool has_told = false;
  while (round.left > 0) {
    if (cancelled == nullptr || has_told) {
      changed_->wait(lock);
      continue;
    }
    if (cancelled->load()) {
      has_told = true;
      Cancel cancel{tickets_.rbegin()->first};
      std::vector<HandlePtr> executors;
      for (const auto& [id, executor] : executors_) executors.push_back(executor);
      lock.unlock();
      for (const HandlePtr& executor : executors) send(executor, encode_message(cancel));
      lock.lock();
      continue;
    }
    changed_->wait_until(lock, runtime_.clock().now() + look_again);
  }
}

ClusterScheduler::Slot& ClusterScheduler::slot_of(std::size_t partition) {
  const std::size_t number = partition % slots_.size();
  Slot& slot = slots_[number];
  const std::vector<ExecutorId> ids = ready();
  if (ids.empty()) return slot;
  if (slot.owner == 0 && !slot.lost) slot.owner = ids[number % ids.size()];
  // Without state there is nothing to be copied yet.
  if (options_.copy_state && slot.copy == 0 && slot.states.empty() && ids.size() > 1) {
    const auto own = std::find(ids.begin(), ids.end(), slot.owner);
    slot.copy = ids[static_cast<std::size_t>(own - ids.begin() + 1) % ids.size()];
    if (slot.copy == slot.owner) slot.copy = 0;
  }
  return slot;
}

// The executor for a task, and what it has to be told; the outcome when it cannot run.
void ClusterScheduler::place(const TaskProgram& task, unsigned attempt, RunTask& message, ExecutorId& executor,
                             TaskOutcome& outcome) {
  std::optional<std::size_t> state_slot;
  for (const TaskStep& step : task.steps) {
    const auto* zip = std::get_if<RunZip>(&step.what);
    if (zip == nullptr || !zip->state) continue;
    Slot& slot = slot_of(step.partition);
    if (slot.lost) {
      outcome.error = lost_state();
      return;
    }
    if (state_slot.has_value() && slot.owner != executor) {
      outcome.error = std::make_exception_ptr(
          Error(Code::no_state_backend, {.why = "partitions of state that lie on several executors are put together "
                                                "without a shuffle: repartition() before coalesce()",
                                         .operation = step.info->name,
                                         .where = step.info->where}));
      return;
    }
    state_slot = step.partition;
    executor = slot.owner;
    message.copy_at = slot.copy;
    if (slot.states.contains(zip->state->operation())) message.must_exist.push_back(zip->state->operation());
  }
  for (const TaskStep& step : task.steps) {
    if (const auto* read = std::get_if<ReadShuffle>(&step.what)) {
      ShuffleAt at{read->shuffle, shuffle_places_[read->shuffle]};
      if (std::find(at.executors.begin(), at.executors.end(), ExecutorId{0}) != at.executors.end()) {
        outcome.place_lost = true;  // since it was planned
        return;
      }
      message.reads.push_back(std::move(at));
    } else if (const auto* block = std::get_if<ReadBlock>(&step.what)) {
      const auto found = block_places_.find(block->block);
      if (found == block_places_.end()) {
        outcome.lost = block->block;
        return;
      }
      if (!state_slot.has_value() && executor == 0) executor = found->second;
      if (executor != found->second) {
        outcome.lost = block->block;
        return;
      }
    }
  }
  if (executor == 0) {
    const std::vector<ExecutorId> ids = ready();
    const std::size_t partition = task.outputs.at(0).partition;
    const auto own = std::find(ids.begin(), ids.end(), slot_of(partition).owner);
    // After a failure another one is tried.
    const std::size_t first = own == ids.end() ? partition : static_cast<std::size_t>(own - ids.begin());
    executor = ids[(first + attempt) % ids.size()];
  }
  for (const TaskOutput& output : task.outputs) {
    const auto* write = std::get_if<WriteShuffle>(&output.what);
    if (write == nullptr) continue;
    const auto maps = static_cast<std::uint32_t>(engine_.shuffles().present(write->shuffle).size());
    shuffle_places_[write->shuffle].resize(maps);
    message.writes.emplace_back(write->shuffle, maps);
  }
}

void ClusterScheduler::dispatch(const TaskProgram& program, const TaskId& stage, std::uint32_t task, unsigned attempt,
                                const std::shared_ptr<Round>& round) {
  RunTask message;
  message.job = stage.job;
  message.stage = stage.stage;
  message.task = task;
  message.batch = stage.batch;
  HandlePtr executor;
  {
    std::unique_lock lock(mutex_);
    TaskOutcome& outcome = round->outcomes[task];
    if (!wait_for_executors(lock, 1)) {
      outcome.error = std::make_exception_ptr(Error(
          Code::no_executors, {.why = "none has come within " + to_string(options_.start_time_max)}));
      return;
    }
    ExecutorId id = 0;
    place(program, attempt, message, id, outcome);
    if (!outcome.succeeded()) return;
    executor = find(id);
    if (executor == nullptr) {
      outcome.place_lost = true;
      return;
    }
    message.ticket = ++last_number_;
    // A number of its own, whoever runs it: what writes files under it meets no other attempt, dead or alive.
    message.attempt = static_cast<std::uint32_t>(tasks_.fetch_add(1));
    tickets_[message.ticket] = {round, task, id};
    round->ran_at[task] = id;
    ++round->left;
  }
  Encoder encoded;
  try {
    program.encode_to(encoded);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (tickets_.erase(message.ticket) == 0) return;
    round->outcomes[task].error = std::current_exception();
    --round->left;
    return;
  }
  message.program = encoded.take();
  send(executor, encode_message(message));
}

void ClusterScheduler::done(const HandlePtr& executor, TaskDone&& message) {
  const auto found = [&] {
    const std::lock_guard lock(mutex_);
    const auto ticket = tickets_.find(message.ticket);
    return ticket != tickets_.end() && ticket->second.executor == executor->id;
  }();
  if (!found) return;
  // Decoded without the lock: it may be much.
  TaskOutcome outcome;
  try {
    switch (message.how) {
      case TaskDone::How::succeeded: {
        Decoder in(message.result);
        outcome.result = decode_result(in);
        in.expect_end();
        break;
      }
      case TaskDone::How::failed: {
        outcome.failed.insert(message.failed.begin(), message.failed.end());
        outcome.cancelled = message.code == static_cast<std::uint32_t>(Code::task_cancelled);
        outcome.error = std::make_exception_ptr(error_of(message));
        break;
      }
      case TaskDone::How::block_lost: outcome.lost = BlockId{message.block_owner, message.block_index}; break;
      case TaskDone::How::place_lost:
        if (message.place == executor->id) {
          outcome.error = lost_state();
        } else {
          outcome.place_lost = true;
        }
        break;
    }
  } catch (...) {
    outcome.error = std::current_exception();
  }
  const std::lock_guard lock(mutex_);
  const auto ticket = tickets_.find(message.ticket);
  if (ticket == tickets_.end()) return;
  if (message.how == TaskDone::How::place_lost && message.place != executor->id) {
    // Two that cannot reach each other are no cluster. It may be gone anyway, and this be the first to know.
    if (const auto place = find(message.place)) place->channel->close();
  }
  if (message.how == TaskDone::How::succeeded && message.place != 0) {
    for (Slot& slot : slots_) {
      if (slot.owner != executor->id || slot.copy != message.place) continue;
      slot.copy = 0;
      state_moved_ = true;
    }
  }
  Round& round = *ticket->second.round;
  round.outcomes[ticket->second.task] = std::move(outcome);
  --round.left;
  tickets_.erase(ticket);
  changed_->notify_all();
}

// What the engine's stores are told: where its output lies.
void ClusterScheduler::adopt(const TaskProgram& task, TaskOutcome& outcome, ExecutorId executor) {
  const std::lock_guard lock(mutex_);
  if (find(executor) == nullptr) {
    // It has ended since: what it has collected is here, but what it left is not.
    const bool leaves = std::any_of(task.outputs.begin(), task.outputs.end(), [](const TaskOutput& output) {
      return !std::holds_alternative<Collect>(output.what);
    });
    const bool has_state = std::any_of(task.steps.begin(), task.steps.end(), [](const TaskStep& step) {
      const auto* zip = std::get_if<RunZip>(&step.what);
      return zip != nullptr && zip->state;
    });
    if (leaves || has_state) {
      outcome = {};
      outcome.place_lost = true;
      return;
    }
  }
  bool is_first = !outcome.result.results.empty();
  for (const TaskOutput& output : task.outputs) {
    if (const auto* shuffle = std::get_if<WriteShuffle>(&output.what)) {
      is_first = engine_.shuffles().put_elsewhere(shuffle->shuffle, output.partition) || is_first;
      ExecutorId& place = shuffle_places_[shuffle->shuffle].at(output.partition);
      if (place == 0) place = executor;
    } else if (const auto* block = std::get_if<WriteBlock>(&output.what)) {
      if (!engine_.blocks().put_elsewhere(block->block)) continue;
      is_first = true;
      block_places_[block->block] = executor;
    }
  }
  outcome.result.adopted = is_first;
  for (const TaskStep& step : task.steps) {
    const auto* zip = std::get_if<RunZip>(&step.what);
    if (zip == nullptr || !zip->state) continue;
    slots_[step.partition % slots_.size()].states.emplace(zip->state->operation(), zip->state);
  }
}

// ---- What is not needed any more

void ClusterScheduler::close_shuffle(std::uint64_t shuffle) {
  engine_.shuffles().close(shuffle);
  const std::lock_guard lock(mutex_);
  if (shuffle_places_.erase(shuffle) > 0) forget_.shuffles.push_back(shuffle);
}

void ClusterScheduler::remove_blocks(std::uint64_t owner) {
  engine_.blocks().remove_owner(owner);
  const std::lock_guard lock(mutex_);
  const auto begin = block_places_.lower_bound({owner, 0});
  const auto end = block_places_.lower_bound({owner + 1, 0});
  if (begin == end) return;
  block_places_.erase(begin, end);
  forget_.block_owners.push_back(owner);
}

void ClusterScheduler::forget_state(std::uint64_t operation, std::size_t partition) {
  const std::lock_guard lock(mutex_);
  Slot& slot = slots_[partition % slots_.size()];
  if (slot.states.erase(operation) == 0) return;
  slot.lost = slot.lost && !slot.states.empty();
  forget_.states.emplace_back(operation, static_cast<std::uint32_t>(partition));
}

void ClusterScheduler::forget() {
  std::vector<HandlePtr> executors;
  Forget message;
  {
    const std::lock_guard lock(mutex_);
    if (forget_.shuffles.empty() && forget_.block_owners.empty() && forget_.states.empty()) return;
    message = std::exchange(forget_, {});
    for (const auto& [id, executor] : executors_) executors.push_back(executor);
  }
  const std::string bytes = encode_message(message);
  for (const HandlePtr& executor : executors) send(executor, bytes);
}

// ---- State

ClusterScheduler::HandlePtr ClusterScheduler::find(ExecutorId id) const {
  const auto found = executors_.find(id);
  return found == executors_.end() ? nullptr : found->second;
}

StateReply ClusterScheduler::call(ExecutorId id, StateRequest request) {
  const auto call = std::make_shared<Call>();
  HandlePtr executor;
  {
    const std::lock_guard lock(mutex_);
    executor = find(id);
    if (executor == nullptr) throw Error(Code::state_lost, {.why = "executor " + std::to_string(id) + " is lost"});
    call->executor = id;
    request.request = ++last_number_;
    calls_[request.request] = call;
  }
  send(executor, encode_message(request));
  std::unique_lock lock(mutex_);
  while (!call->is_done && !call->is_lost) changed_->wait(lock);
  calls_.erase(request.request);
  if (!call->is_done) throw Error(Code::state_lost, {.why = "executor " + std::to_string(id) + " is lost"});
  if (!call->reply.error.empty()) throw Error(Code::state_lost, {.why = call->reply.error});
  return std::move(call->reply);
}

// What took over is told so before anything is asked of it.
void ClusterScheduler::promote_copies() {
  std::vector<std::pair<ExecutorId, StateRequest>> requests;
  {
    const std::lock_guard lock(mutex_);
    for (std::size_t number = 0; number < slots_.size(); ++number) {
      Slot& slot = slots_[number];
      if (!slot.promote) continue;
      slot.promote = false;
      for (const auto& [operation, maker] : slot.states) {
        StateRequest request;
        request.what = StateRequest::What::promote;
        request.operation = operation;
        request.partition = static_cast<std::uint32_t>(number);
        request.number = completed_;
        requests.emplace_back(slot.owner, std::move(request));
      }
    }
  }
  for (auto& [executor, request] : requests) {
    const std::uint32_t number = request.partition;
    try {
      call(executor, std::move(request));
    } catch (const Error& error) {
      // It is lost too, or had no copy after all.
      std::fprintf(stderr, "sluice: state could not be taken over: %s\n", error.what());
      const std::lock_guard lock(mutex_);
      slots_[number].lost = true;
    }
  }
}

void ClusterScheduler::completed(Time batch) {
  {
    const std::lock_guard lock(mutex_);
    completed_ = batch.time_since_epoch().count();
    losses_.clear();
  }
  promote_copies();
  if (options_.copy_state) make_copies();
  balance();
}

// Executors that have come get their part: where they have a copy, the two change roles.
void ClusterScheduler::balance() {
  for (;;) {
    std::vector<std::pair<ExecutorId, StateRequest>> requests;
    std::size_t number = 0;
    {
      const std::lock_guard lock(mutex_);
      std::map<ExecutorId, std::size_t> owned;
      for (const ExecutorId id : ready()) owned[id] = 0;
      if (owned.size() < 2) return;
      for (const Slot& slot : slots_) {
        if (owned.contains(slot.owner)) ++owned[slot.owner];
      }
      const auto by_count = [](const auto& a, const auto& b) { return a.second < b.second; };
      const auto least = std::min_element(owned.begin(), owned.end(), by_count);
      const auto most = std::max_element(owned.begin(), owned.end(), by_count);
      if (most->second - least->second < 2) return;
      const auto moved = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& slot) {
        return slot.owner == most->first && (slot.copy == least->first || slot.states.empty());
      });
      if (moved == slots_.end()) return;
      if (moved->states.empty()) {
        moved->owner = least->first;
        moved->copy = 0;
        continue;
      }
      number = static_cast<std::size_t>(moved - slots_.begin());
      for (const auto& [operation, maker] : moved->states) {
        StateRequest request;
        request.operation = operation;
        request.partition = static_cast<std::uint32_t>(number);
        request.number = completed_;
        request.what = StateRequest::What::promote;
        requests.emplace_back(moved->copy, request);
        request.what = StateRequest::What::demote;
        requests.emplace_back(moved->owner, std::move(request));
      }
      std::swap(moved->owner, moved->copy);
      state_moved_ = true;
    }
    try {
      for (auto& [executor, request] : requests) call(executor, std::move(request));
    } catch (const Error& error) {
      // Half done: what is where nobody knows, and one of the two is lost most likely. The other one is given up, too.
      std::fprintf(stderr, "sluice: state could not be moved: %s\n", error.what());
      const std::lock_guard lock(mutex_);
      slots_[number].lost = true;
      return;
    }
  }
}

// Between two batches, for slots with state that have lost their copy.
void ClusterScheduler::make_copies() {
  for (;;) {
    std::size_t number = 0;
    ExecutorId owner = 0;
    ExecutorId target = 0;
    std::map<std::uint64_t, Shipped<StateMaker>> states;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
      std::map<ExecutorId, std::size_t> copies;
      for (const ExecutorId id : ready()) copies[id] = 0;
      if (copies.size() < 2) return;
      for (const Slot& slot : slots_) {
        if (copies.contains(slot.copy)) ++copies[slot.copy];
      }
      const auto lacking = std::find_if(slots_.begin(), slots_.end(), [](const Slot& slot) {
        return slot.owner != 0 && slot.copy == 0 && !slot.lost && !slot.states.empty();
      });
      if (lacking == slots_.end()) return;
      number = static_cast<std::size_t>(lacking - slots_.begin());
      owner = lacking->owner;
      states = lacking->states;
      for (const auto& [id, count] : copies) {
        if (id != owner && (target == 0 || count < copies[target])) target = id;
      }
    }
    try {
      for (const auto& [operation, maker] : states) {
        StateRequest request;
        request.what = StateRequest::What::copy;
        request.operation = operation;
        request.partition = static_cast<std::uint32_t>(number);
        request.number = target;
        Encoder bytes;
        maker.encode_to(bytes);
        request.maker = bytes.take();
        call(owner, std::move(request));
      }
    } catch (const Error& error) {
      std::fprintf(stderr, "sluice: a copy of state could not be made: %s\n", error.what());
      return;  // after the next batch
    }
    const std::lock_guard lock(mutex_);
    state_moved_ = true;
    if (slots_[number].owner == owner && find(target) != nullptr) slots_[number].copy = target;
  }
}

void ClusterScheduler::track_state() {
  std::vector<ExecutorId> ids;
  {
    const std::lock_guard lock(mutex_);
    tracks_ = true;
    ids = ready();
  }
  for (const ExecutorId id : ids) {
    StateRequest request;
    request.what = StateRequest::What::track;
    call(id, std::move(request));
  }
}

bool ClusterScheduler::take_state_moved() {
  const std::lock_guard lock(mutex_);
  return std::exchange(state_moved_, false);
}

/// A partition of state that lies on an executor, and its copy on another.
class RemoteState final : public StatePartition {
 public:
  RemoteState(ClusterScheduler& scheduler, Shipped<StateMaker> maker, std::size_t partition)
      : scheduler_(scheduler), maker_(std::move(maker)), partition_(partition) {}
  ~RemoteState() override { scheduler_.forget_state(maker_->operation(), partition_); }

  void track() override {}
  void freeze() override {
    const auto [owner, copy] = places();
    frozen_at_ = copy != 0 ? copy : owner;
    is_copy_ = copy != 0;
    if (frozen_at_ == 0) return;  // nothing has ever run
    StateRequest request = to(StateRequest::What::freeze);
    request.of_copy = is_copy_;
    request.number = scheduler_.completed_batch();
    frozen_ = scheduler_.call(frozen_at_, std::move(request)).number;
  }
  bool write(std::size_t bytes_max, std::vector<StateBlock>& out) override {
    if (frozen_at_ == 0 || frozen_ == 0) return false;
    StateRequest request = to(StateRequest::What::write);
    request.frozen = frozen_;
    request.of_copy = is_copy_;
    request.number = static_cast<std::int64_t>(std::min<std::size_t>(bytes_max, std::size_t{1} << 40));
    StateReply reply = scheduler_.call(frozen_at_, std::move(request));
    for (StateBlock& block : reply.blocks) out.push_back(std::move(block));
    return reply.more;
  }
  void load(const StateBlock& block, const StateSchema& written) override {
    if (!loading_.empty() && !(loading_written_ == written)) flush();
    loading_written_ = written;
    loading_bytes_ += block.bytes.size();
    loading_.push_back(block);
    if (loading_bytes_ >= load_bytes) flush();
  }
  void loaded(std::int64_t version) override {
    flush();
    StateRequest request = to(StateRequest::What::loaded);
    request.number = version;
    call_both(request);
  }
  std::int64_t last_batch() const override {
    const auto [owner, copy] = places();
    return owner == 0 ? 0 : scheduler_.call(owner, to(StateRequest::What::last_batch)).number;
  }
  void mark_all() override {
    const auto [owner, copy] = places();
    StateRequest request = to(StateRequest::What::mark_all);
    request.of_copy = copy != 0;
    if (owner != 0) scheduler_.call(copy != 0 ? copy : owner, std::move(request));
  }
  void apply(std::span<const StateBlock>, std::int64_t) override { SLUICE_ASSERT(false); }

 private:
  StateRequest to(StateRequest::What what) const {
    StateRequest request;
    request.what = what;
    request.operation = maker_->operation();
    request.partition = static_cast<std::uint32_t>(partition_);
    return request;
  }
  std::pair<ExecutorId, ExecutorId> places() const { return scheduler_.places_of(partition_); }
  void flush() {
    if (!is_made_) {
      StateRequest request = to(StateRequest::What::make);
      Encoder bytes;
      maker_.encode_to(bytes);
      request.maker = bytes.take();
      scheduler_.add_state(maker_, partition_);
      is_made_ = true;
      call_both(request);
    }
    if (loading_.empty()) return;
    StateRequest request = to(StateRequest::What::load);
    request.blocks = std::exchange(loading_, {});
    request.written = loading_written_;
    loading_bytes_ = 0;
    call_both(request);
  }
  void call_both(const StateRequest& request) {
    const auto [owner, copy] = places();
    if (owner != 0) scheduler_.call(owner, request);
    if (copy == 0) return;
    StateRequest of_copy = request;
    of_copy.of_copy = true;
    scheduler_.call(copy, std::move(of_copy));
  }

  ClusterScheduler& scheduler_;
  const Shipped<StateMaker> maker_;
  const std::size_t partition_;
  bool is_made_ = false;
  ExecutorId frozen_at_ = 0;
  std::int64_t frozen_ = 0;
  bool is_copy_ = false;
  std::vector<StateBlock> loading_;
  std::size_t loading_bytes_ = 0;
  StateSchema loading_written_;
};

std::shared_ptr<StatePartition> ClusterScheduler::make_state(const Shipped<StateMaker>& maker, std::size_t partition) {
  return std::make_shared<RemoteState>(*this, maker, partition);
}

std::pair<ExecutorId, ExecutorId> ClusterScheduler::places_of(std::size_t partition) {
  const std::lock_guard lock(mutex_);
  const Slot& slot = slot_of(partition);
  return {slot.owner, slot.copy};
}

void ClusterScheduler::add_state(const Shipped<StateMaker>& maker, std::size_t partition) {
  const std::lock_guard lock(mutex_);
  Slot& slot = slot_of(partition);
  slot.states.emplace(maker->operation(), maker);
}

std::int64_t ClusterScheduler::completed_batch() {
  const std::lock_guard lock(mutex_);
  return completed_;
}

}  // namespace sluice::detail
