#include "sluice/cluster/scheduler.h"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <optional>
#include <utility>

#include "sluice/core/shared_values.h"

namespace sluice::detail {
namespace {

/// How often a flag that wakes nobody is looked at.
constexpr Duration look_again = std::chrono::milliseconds(10);
/// Tasks are told executors together, but not so many that the first would wait for the last to be placed.
constexpr std::size_t send_bytes_min = 64 << 10;
/// Set in the number of an attempt that runs beside another one.
constexpr std::uint32_t second_attempt = 1U << 31;
/// So many times a task may fail on an executor and succeed on another before that one is given up.
constexpr unsigned blame_max = 3;

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
      Error(Code::state_lost, {.why = "the executors that had a part of it have ended, and no copy is left"}));
}

bool has_state(const TaskProgram& task) {
  return std::any_of(task.steps.begin(), task.steps.end(),
                     [](const TaskStep& step) { return state_of(step) != nullptr; });
}

/// The task leaves something where it has run.
bool leaves_something(const TaskProgram& task) {
  return has_state(task) || std::any_of(task.outputs.begin(), task.outputs.end(), [](const TaskOutput& output) {
           return !std::holds_alternative<Collect>(output.what);
         });
}

}  // namespace

ClusterScheduler::ClusterScheduler(Engine& engine, std::unique_ptr<ClusterManager> manager,
                                   const ClusterOptions& options)
    : engine_(engine),
      runtime_(engine.runtime()),
      options_(options),
      scaling_(options.scaling),
      wanted_(options.executors),
      changed_(runtime_.condition()),
      manager_(std::move(manager)) {
  Members::Options members;
  const ClusterNetwork& network = manager_->network();
  members.token = network.token;
  members.welcome.heartbeat = options_.executor_timeout / 5;
  members.welcome.hash_seed = engine_.options().hash_seed;
  members.welcome.check_views = engine_.options().check_views;
  members.timeout = options_.executor_timeout;
  members.on_come = [this](ExecutorId executor, std::int64_t pid) { manager_->came(executor, pid); };
  members.on_message = [this](ExecutorId executor, std::string_view message) { on_message(executor, message); };
  members.on_lost = [this](ExecutorId executor) { on_lost(executor); };
  each_.token = members.token;
  each_.cores = options_.cores;
  each_.memory_bytes = options_.memory_bytes;
  each_.spill_directory = options_.spill_directory;
  each_.compression = options_.compression;
  members_ =
      std::make_unique<Members>(runtime_, network.transport->listen(manager_->driver_address()), std::move(members));
  slots_ = std::make_unique<Slots>(*members_, options_.copy_state);
  services_ = std::make_unique<ServicePlaces>(
      *members_, ServicePlaces::Options{options_.start_time_max, options_.copy_blocks,
                                        [this](const BlockId& block, ExecutorId executor, ExecutorId copy) {
                                          on_service_block(block, executor, copy);
                                        },
                                        [this](const BlockId& first, const BlockId& last) {
                                          const std::lock_guard lock(mutex_);
                                          forget_.block_owners.emplace_back(first.owner, last.owner);
                                        }});
  each_.driver = members_->address().text;
  manager_->run_executors(each_, options_.executors);
  if (members_->wait_for(options_.executors, options_.start_time_max)) return;
  const std::size_t came = members_->ready().size();
  members_->stop();
  throw no_executors(std::to_string(came) + " of " + std::to_string(options_.executors) + " executors have come");
}

Error ClusterScheduler::no_executors(const std::string& how_many) {
  std::string why = how_many + " within " + to_string(options_.start_time_max);
  if (const std::string waiting_for = manager_->waiting_for(); !waiting_for.empty()) why += "; " + waiting_for;
  return {Code::no_executors, {.why = why}};
}

ClusterScheduler::~ClusterScheduler() { members_->stop(); }

void ClusterScheduler::reserve_cores(long cores) {
  if (cores <= 0) {
    const std::lock_guard lock(mutex_);
    reserved_cores_ = static_cast<std::size_t>(static_cast<long>(reserved_cores_) + cores);
    return;
  }
  // How many they have they say themselves, and one may just be on its way back.
  if (options_.cores == 0) members_->wait_for(wanted_, options_.start_time_max);
  const std::lock_guard lock(mutex_);
  const long total = static_cast<long>(options_.cores > 0 ? wanted_ * options_.cores : members_->cores());
  const long reserved = static_cast<long>(reserved_cores_) + cores;
  if (total - reserved < 1) {
    throw Error(Code::too_few_cores, {.why = std::to_string(wanted_) + " executors, " + std::to_string(total) +
                                             " cores, " + std::to_string(reserved) + " receivers: " +
                                             std::to_string(total - reserved) + " cores left for tasks"});
  }
  reserved_cores_ = static_cast<std::size_t>(reserved);
}

// ---- Rounds

Outcomes ClusterScheduler::run(const Rounds& rounds, const TaskId& stage, const std::atomic<bool>* cancelled) {
  if (!options_.speculation) return run_group(rounds, stage, cancelled);
  // Here it is to be seen how long each task takes.
  return run_one_by_one(rounds, stage, [&](const std::vector<TaskProgram>& tasks, const TaskId& id) {
    return std::move(run_group(std::span(&tasks, 1), id, cancelled)[0]);
  });
}

Outcomes ClusterScheduler::run_group(std::span<const std::vector<TaskProgram>> rounds, const TaskId& stage,
                                     Cancelled cancelled) {
  const auto group = std::make_shared<TaskGroup>(rounds, stage);
  std::vector<std::uint32_t> todo(group->size());
  std::iota(todo.begin(), todo.end(), 0U);
  while (!todo.empty()) {
    slots_->settle();
    forget();
    {
      const std::lock_guard lock(mutex_);
      group->begin(todo);
    }
    dispatch(group, todo);
    wait(group, cancelled);
    for (const std::uint32_t task : todo) {
      TaskOutcome& outcome = group->outcome(task);
      if (outcome.succeeded()) {
        adopt(group->program(task), outcome, group->given(task));
        blame(group->failed_at(task), group->given(task).executor);
      }
      if (outcome.error != nullptr) failed_attempts_.fetch_add(1);
    }
    const std::lock_guard lock(mutex_);
    for (const OutputLost& lost : std::exchange(group->lost_output, {})) lose_output(lost);
    todo = group->again(todo, options_.task_tries);
  }
  if (group->has_lost_executor || group->has_lost_output) {
    give_up_lost(*group);
  } else if (group->any([](const TaskOutcome& outcome) { return outcome.place_lost; })) {
    // Others have seen that an executor is lost, and this process will in a moment.
    std::unique_lock lock(mutex_);
    changed_->wait_until(lock, runtime_.clock().now() + look_again);
  }
  return group->take_outcomes();
}

// A task has failed on some executors and succeeded on another: it was not the task.
void ClusterScheduler::blame(const std::vector<ExecutorId>& failed_at, ExecutorId succeeded_at) {
  for (const ExecutorId executor : failed_at) {
    if (executor == 0 || executor == succeeded_at) continue;
    {
      const std::lock_guard lock(mutex_);
      if (++blamed_[executor] < blame_max) continue;
    }
    members_->give_up(executor, "tasks fail there that succeed elsewhere");
  }
}

// A task that ends the processes that run it would go on with that for ever, and so would a disk that damages what it
// is given.
void ClusterScheduler::give_up_lost(TaskGroup& group) {
  const std::lock_guard lock(mutex_);
  Losses& of_job = losses_[group.job()];
  const unsigned losses = group.has_lost_executor ? ++of_job.executors : ++of_job.output;
  if (losses < options_.task_tries) return;
  for (std::size_t task = 0; task < group.size(); ++task) {
    TaskOutcome& outcome = group.outcome(task);
    if (!outcome.place_lost) continue;
    outcome.place_lost = false;
    outcome.error = std::make_exception_ptr(
        group.has_lost_executor
            ? Error(Code::process_failed,
                    {.why = "executors ended " + std::to_string(losses) + " times under this job"})
            : Error(Code::corrupt_data, {.why = "shuffle output of this job was lost " + std::to_string(losses) +
                                                " times; the executors' standard error says which files"}));
    outcome.failed = all_outputs(group.program(task));
  }
}

void ClusterScheduler::wait(const std::shared_ptr<TaskGroup>& group, Cancelled cancelled) {
  std::unique_lock lock(mutex_);
  for (;;) {
    for (const auto& [executor, ticket] : std::exchange(to_cancel_, {})) {
      lock.unlock();
      members_->send(executor, encode_message(Cancel{ticket, ticket}));
      lock.lock();
    }
    if (group->left() == 0) return;
    if (cancelled != nullptr && cancelled->load()) {
      const Cancel cancel{0, last_ticket_};
      cancelled = nullptr;
      lock.unlock();
      members_->send_all(encode_message(cancel));
      lock.lock();
      continue;
    }
    const std::vector<std::uint32_t> slow = slow_tasks(*group);
    if (!slow.empty()) {
      lock.unlock();
      ToSend to_send;
      for (const std::uint32_t task : slow) {
        TaskOutcome nowhere;  // where it cannot be placed, it goes on where it is
        give(group, task, nowhere, to_send);
      }
      send(to_send);
      lock.lock();
      continue;
    }
    if (cancelled == nullptr && !options_.speculation) {
      changed_->wait(lock);
    } else {
      changed_->wait_until(lock, runtime_.clock().now() + look_again);
    }
  }
}

// Under the mutex. Those that somebody else may work on at the same time.
std::vector<std::uint32_t> ClusterScheduler::slow_tasks(TaskGroup& group) {
  if (!options_.speculation) return {};
  std::vector<std::uint32_t> slow = group.slow(runtime_.clock().now(), options_.speculation_min);
  std::erase_if(slow, [&](std::uint32_t task) { return has_state(group.program(task)); });
  return slow;
}

// The executor for a task, and what it has to be told. Not where the outcome says why there is none.
ExecutorId ClusterScheduler::place(const TaskGroup& group, std::uint32_t number, ExecutorId avoided, RunTask& message,
                                   TaskOutcome& outcome) {
  const TaskProgram& task = group.program(number);
  ExecutorId executor = 0;
  for (const TaskStep& step : task.steps) {
    const Shipped<StateMaker>* const state = state_of(step);
    if (state == nullptr) continue;
    const Slots::Place at = slots_->place(step.partition, (*state)->operation());
    if (at.is_lost) outcome.error = lost_state();
    if (executor != 0 && at.owner != executor) {
      // No operator makes such tasks: see Operators::coalesce.
      outcome.error = std::make_exception_ptr(
          Error(Code::no_state_backend, {.why = "a task needs partitions of state that lie on several executors",
                                         .operation = step.info->name,
                                         .where = step.info->where}));
    }
    outcome.place_lost = at.is_unsettled;
    if (!outcome.succeeded()) return 0;
    executor = at.owner;
    message.copy_at = at.copy;
    if (at.has_state) message.must_exist.push_back((*state)->operation());
  }
  bool is_free = executor == 0;
  for (const TaskStep& step : task.steps) {
    if (const auto* read = std::get_if<ReadShuffle>(&step.what)) {
      message.reads.push_back(where_is(read->shuffle, group));
      outcome.place_lost = contains(message.reads.back().executors, ExecutorId{0});
    } else if (const auto* block = std::get_if<ReadBlock>(&step.what)) {
      const auto found = block_places_.find(block->block);
      if (found == block_places_.end()) {
        if (engine_.blocks().is_lost_for_good(block->block)) {
          outcome.error = lost_state();
        } else {
          outcome.lost = block->block;
        }
        return 0;
      }
      const std::vector<ExecutorId>& at = found->second.executors;
      for (const ExecutorId id : at) {
        const bool is_better = executor == 0 || (is_free && loads_[id] < loads_[executor]);
        if (id != avoided && is_better) executor = id;
      }
      is_free = false;
      if (!contains(at, executor)) message.blocks.push_back({block->block, at.front()});
    }
    if (!outcome.succeeded()) return 0;
  }
  if (executor == 0) {
    std::vector<ExecutorId> ids = members_->ready();
    std::erase(ids, avoided);
    if (ids.empty()) {
      outcome.place_lost = true;
      return 0;
    }
    const std::size_t partition = task.outputs.at(0).partition;
    const auto own = std::find(ids.begin(), ids.end(), slots_->place(partition).owner);
    // After a failure another one is tried.
    const std::size_t first = own == ids.end() ? partition : static_cast<std::size_t>(own - ids.begin());
    executor = ids[(first + group.failed_at(number).size()) % ids.size()];
  }
  for (const TaskOutput& output : task.outputs) {
    const auto* block = std::get_if<WriteBlock>(&output.what);
    if (block != nullptr && engine_.blocks().is_lost_for_good(block->block)) {
      outcome.error = lost_state();
      return 0;
    }
    if (block != nullptr && block->twice) message.block_copy_at = another(executor, output.partition);
    const auto* write = std::get_if<WriteShuffle>(&output.what);
    if (write == nullptr) continue;
    const auto maps = static_cast<std::uint32_t>(engine_.shuffles().present(write->shuffle).size());
    shuffle_places_[write->shuffle].resize(maps);
    message.writes.emplace_back(write->shuffle, maps);
  }
  return executor;
}

// Where its map partitions are or will be. 0 for one that was lost since the round was planned.
ShuffleAt ClusterScheduler::where_is(std::uint64_t shuffle, const TaskGroup& group) {
  ShuffleAt at{shuffle, shuffle_places_[shuffle], false};
  for (std::uint32_t map = 0; map < at.executors.size(); ++map) {
    if (at.executors[map] != 0) continue;
    at.executors[map] = group.promised(shuffle, map);
    at.is_to_come = true;
  }
  return at;
}

// An executor for a copy of what the partition leaves on another one, of another host if there is any; 0 when there is
// none.
ExecutorId ClusterScheduler::another(ExecutorId executor, std::size_t partition) {
  const Slots::Place at = slots_->place(partition);
  const std::vector<ExecutorId> others = slots_->for_copies(members_->ready(), executor);
  if (others.empty() || contains(others, at.copy)) return others.empty() ? 0 : at.copy;
  const auto next = std::upper_bound(others.begin(), others.end(), executor);
  return next == others.end() ? others.front() : *next;
}

void ClusterScheduler::await_executor() {
  if (members_->wait_for(1, options_.start_time_max)) return;
  throw no_executors("none has come");
}

void ClusterScheduler::dispatch(const std::shared_ptr<TaskGroup>& group, const std::vector<std::uint32_t>& todo) {
  ToSend to_send;
  for (const std::uint32_t task : todo) {
    give(group, task, group->outcome(task), to_send);
    if (to_send.bytes >= send_bytes_min) send(to_send);
  }
  send(to_send);
}

// A task that somebody is at already is given to another one.
void ClusterScheduler::give(const std::shared_ptr<TaskGroup>& group, std::uint32_t task, TaskOutcome& outcome,
                            ToSend& to_send) {
  RunTask message;
  try {
    await_executor();
    message.program = encoded(group->program(task));
  } catch (...) {
    outcome.error = std::current_exception();
    const std::lock_guard lock(mutex_);
    return group->refused(task);
  }
  const std::lock_guard lock(mutex_);
  if (!group->is_wanted(task)) return;
  const bool is_second = group->running(task) > 0;
  const ExecutorId executor = place(*group, task, is_second ? group->first(task) : 0, message, outcome);
  if (executor == 0) return is_second ? void() : group->refused(task);
  const TaskId id = group->id_of(task);
  message.ticket = ++last_ticket_;
  message.job = id.job;
  message.stage = id.stage;
  message.task = id.task;
  message.batch = id.batch;
  // One that a lost executor may still be at has another number: what writes files under it does not meet.
  message.attempt = lost_executors_ * options_.task_tries + id.attempt;
  if (is_second) message.attempt |= second_attempt;
  tickets_[message.ticket] = {group, task, group->attempt(), {executor, message.copy_at, message.block_copy_at}};
  ++loads_[executor];
  group->give(task, executor, runtime_.clock().now());
  to_send.bytes += message.program.size();
  to_send.tasks[executor].tasks.push_back(std::move(message));
}

void ClusterScheduler::send(ToSend& to_send) {
  for (const auto& [executor, message] : to_send.tasks) {
    tasks_.fetch_add(message.tasks.size());
    members_->send(executor, encode_message(message));
    if (members_->is_alive(executor)) continue;
    // It was lost before it had the tickets, perhaps: then nobody would ever say so.
    const std::lock_guard lock(mutex_);
    for (const RunTask& task : message.tasks) {
      if (!tickets_.contains(task.ticket)) continue;
      TaskOutcome lost;
      lost.place_lost = true;
      ended(task.ticket, std::move(lost));
    }
    loads_.erase(executor);
  }
  to_send = {};
}

// Under the mutex. The ticket is known. False when its outcome does not count.
bool ClusterScheduler::ended(std::uint64_t number, TaskOutcome&& outcome) {
  const Ticket ticket = std::move(tickets_.extract(number).mapped());
  TaskGroup& group = *ticket.group;
  --loads_[ticket.given.executor];
  if (!group.ended(ticket.task, ticket.attempt, ticket.given, std::move(outcome), runtime_.clock().now())) return false;
  const bool takes_back = group.takes_back();
  if (!takes_back && group.running(ticket.task) == 0) return true;
  for (const auto& [other, one] : tickets_) {
    if (one.group.get() != &group || one.attempt != ticket.attempt) continue;
    const bool is_too_late = one.task == ticket.task;
    if (is_too_late || (takes_back && group.is_taken_back(one.task))) {
      to_cancel_.emplace_back(one.given.executor, other);
    }
  }
  return true;
}

void ClusterScheduler::on_message(ExecutorId executor, std::string_view bytes) {
  if (message_kind(bytes) == AskShared::kind) {
    Shared answer{decode_message<AskShared>(bytes).id, {}, {}};
    try {
      answer.bytes = encode_shared_value(answer.id);
    } catch (const Error& error) {
      answer.error = error.details().why;
    }
    return members_->send(executor, encode_message(answer));
  }
  if (message_kind(bytes) == Leave::kind) {
    std::fprintf(stderr, "sluice: executor %u leaves\n", executor);
    return members_->leave(executor);
  }
  if (message_kind(bytes) == ServiceMessage::kind) {
    return services_->on_message(executor, decode_message<ServiceMessage>(bytes));
  }
  if (message_kind(bytes) == ServiceEnded::kind) {
    return services_->on_ended(executor, decode_message<ServiceEnded>(bytes));
  }
  const auto message = decode_message<TaskDone>(bytes);
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
      case TaskDone::How::failed:
        outcome.failed.insert(message.failed.begin(), message.failed.end());
        outcome.cancelled = message.code == static_cast<std::uint32_t>(Code::task_cancelled);
        outcome.error = std::make_exception_ptr(error_of(message));
        break;
      case TaskDone::How::block_lost: outcome.lost = BlockId{message.block_owner, message.block_index}; break;
      case TaskDone::How::place_lost:
        if (message.place == executor) {
          outcome.error = lost_state();
        } else {
          outcome.place_lost = true;
        }
        break;
      case TaskDone::How::output_lost: outcome.place_lost = true; break;
      default: throw Error(Code::corrupt_data, {.why = "a task came to something unknown"});
    }
  } catch (...) {
    outcome.error = std::current_exception();
  }
  // Two that cannot reach each other are no cluster. It may be gone anyway, and this be the first to know.
  const bool has_lost_output = message.how == TaskDone::How::output_lost;
  if (outcome.place_lost && !has_lost_output) {
    members_->give_up(message.place, "another executor cannot get what it has");
  }
  if (message.how == TaskDone::How::succeeded && message.place != 0) slots_->copy_lost(executor, message.place);
  const std::lock_guard lock(mutex_);
  if (outcome.lost.has_value()) lose_block(*outcome.lost);
  const auto ticket = tickets_.find(message.ticket);
  if (ticket == tickets_.end() || ticket->second.given.executor != executor) return;
  if (message.place == ticket->second.given.block_copy) ticket->second.given.block_copy = 0;
  const std::shared_ptr<TaskGroup> group = ticket->second.group;
  if (ended(message.ticket, std::move(outcome)) && has_lost_output) {
    group->has_lost_output = true;
    // Not yet: who was to make it may not have said that it has.
    group->lost_output.insert(group->lost_output.end(), message.lost_output.begin(), message.lost_output.end());
  }
  changed_->notify_all();
}

// Under the mutex. The executor lives, and what it does not have any more is made again. Another task may have said so
// before, and it may lie elsewhere since.
void ClusterScheduler::lose_output(const OutputLost& lost) {
  const auto places = shuffle_places_.find(lost.shuffle);
  if (places == shuffle_places_.end()) return;
  for (const std::uint32_t map : lost.maps) {
    if (map >= places->second.size() || places->second[map] != lost.executor) continue;
    places->second[map] = 0;
    engine_.shuffles().lose(lost.shuffle, map);
  }
}

// Under the mutex. Nobody has it any more, or who was to have it has not.
void ClusterScheduler::lose_block(const BlockId& block) {
  const auto places = block_places_.extract(block);
  if (places.empty()) return;
  places.mapped().is_needed ? engine_.blocks().lose_for_good(block) : engine_.blocks().lose(block);
}

// They are removed with their lease, as cached partitions are.
void ClusterScheduler::on_service_block(const BlockId& block, ExecutorId executor, ExecutorId copy) {
  const std::lock_guard lock(mutex_);
  std::vector<ExecutorId> executors{executor};
  if (copy != 0 && members_->is_alive(copy)) executors.push_back(copy);
  place_block(block, std::move(executors));
}

// Under the mutex.
void ClusterScheduler::place_block(const BlockId& block, std::vector<ExecutorId> executors) {
  BlockPlaces& places = block_places_[block];
  places.executors = std::move(executors);
  places.twice = options_.copy_blocks;
  lacks_copies_ = lacks_copies_ || (places.twice && places.executors.size() < 2);
  engine_.blocks().put_elsewhere(block);
}

void ClusterScheduler::on_lost(ExecutorId executor) {
  slots_->lost(executor);
  services_->lost(executor);
  const std::lock_guard lock(mutex_);
  ++lost_executors_;
  blamed_.erase(executor);
  for (auto& [shuffle, places] : shuffle_places_) {
    for (std::size_t map = 0; map < places.size(); ++map) {
      if (places[map] != executor) continue;
      places[map] = 0;
      engine_.shuffles().lose(shuffle, map);
    }
  }
  for (auto place = block_places_.begin(); place != block_places_.end();) {
    const bool had_it = std::erase(place->second.executors, executor) > 0;
    lacks_copies_ = lacks_copies_ || (had_it && place->second.twice);
    const auto next = std::next(place);
    if (place->second.executors.empty()) lose_block(BlockId{place->first});
    place = next;
  }
  std::vector<std::uint64_t> lost;
  for (const auto& [number, ticket] : tickets_) {
    if (ticket.given.executor == executor) lost.push_back(number);
  }
  for (const std::uint64_t number : lost) {
    const std::shared_ptr<TaskGroup> group = tickets_.at(number).group;
    TaskOutcome outcome;
    outcome.place_lost = true;
    if (ended(number, std::move(outcome))) group->has_lost_executor = true;
  }
  loads_.erase(executor);
  changed_->notify_all();
}

// The engine's stores are told what there is, and it is kept here where (C2).
void ClusterScheduler::adopt(const TaskProgram& task, TaskOutcome& outcome, const GivenTask& given) {
  const ExecutorId executor = given.executor;
  const ExecutorId copy = given.block_copy;
  const std::lock_guard lock(mutex_);
  if (leaves_something(task) && !members_->is_alive(executor)) {
    outcome = {};
    outcome.place_lost = true;
    return;
  }
  bool is_first = !outcome.result.results.empty();
  for (const TaskOutput& output : task.outputs) {
    if (const auto* shuffle = std::get_if<WriteShuffle>(&output.what)) {
      is_first = engine_.shuffles().put_elsewhere(shuffle->shuffle, output.partition) || is_first;
      ExecutorId& place = shuffle_places_[shuffle->shuffle].at(output.partition);
      if (place == 0) place = executor;
    } else if (const auto* block = std::get_if<WriteBlock>(&output.what)) {
      is_first = engine_.blocks().put_elsewhere(block->block) || is_first;
      BlockPlaces& places = block_places_[block->block];
      places.twice = places.is_needed = block->twice;
      if (places.executors.empty()) places.executors.push_back(executor);
      if (block->twice && copy != 0 && members_->is_alive(copy) && places.executors.size() == 1 &&
          places.executors[0] == executor) {
        places.executors.push_back(copy);
      }
      lacks_copies_ = lacks_copies_ || (block->twice && places.executors.size() < 2);
    }
  }
  outcome.result.adopted = is_first;
  for (const TaskStep& step : task.steps) {
    const Shipped<StateMaker>* const state = state_of(step);
    if (state == nullptr) continue;
    slots_->add(*state, step.partition);
    // The copy may have been lost since, and another one chosen, which does not have it.
    const ExecutorId chosen = slots_->place(step.partition).copy;
    if (chosen != given.state_copy) slots_->copy_lost(executor, chosen);
  }
}

// ---- What is not needed any more

void ClusterScheduler::close_shuffle(std::uint64_t shuffle) {
  engine_.shuffles().close(shuffle);
  const std::lock_guard lock(mutex_);
  if (shuffle_places_.erase(shuffle) > 0) forget_.shuffles.push_back(shuffle);
}

void ClusterScheduler::remove_blocks(std::uint64_t owner) {
  {
    const std::lock_guard lock(mutex_);
    const auto begin = block_places_.lower_bound({owner, 0});
    const auto end = block_places_.lower_bound({owner + 1, 0});
    if (begin != end) forget_.block_owners.emplace_back(owner, owner);
    block_places_.erase(begin, end);
  }
  engine_.blocks().remove_owner(owner);  // what is lost from now on is none of its blocks
}

void ClusterScheduler::forget() {
  Forget message;
  {
    const std::lock_guard lock(mutex_);
    if (forget_.shuffles.empty() && forget_.block_owners.empty() && forget_.states.empty()) return;
    message = std::exchange(forget_, {});
  }
  members_->send_all(encode_message(message));
}

// ---- State

std::shared_ptr<StatePartition> ClusterScheduler::make_state(const Shipped<StateMaker>& maker, std::size_t partition) {
  await_executor();
  forget();  // else what is about to be made would be taken for one that was dropped before
  return make_remote_state(*slots_, maker, partition, [this, operation = maker->operation(), partition] {
    const std::lock_guard lock(mutex_);
    forget_.states.emplace_back(operation, static_cast<std::uint32_t>(partition));
  });
}

std::optional<std::set<std::size_t>> ClusterScheduler::take_up_state(const std::string& application,
                                                                     std::uint64_t epoch, const WantedStates& wanted) {
  members_->set_application(application, epoch);
  // Those that come later are told so with their welcome, and have nothing that is waited for.
  std::map<ExecutorId, std::vector<KeptState>> kept;
  std::map<std::uint64_t, std::vector<ExecutorId>> blocks;
  const auto ask_all = [this](const StateRequest& request) {
    const std::vector<ExecutorId> ids = members_->ready();
    std::vector<std::pair<ExecutorId, StateRequest>> requests;
    for (const ExecutorId id : ids) requests.emplace_back(id, request);
    std::vector<StateReply> replies = members_->call_all(std::move(requests));
    std::map<ExecutorId, StateReply> answers;
    for (std::size_t i = 0; i < ids.size(); ++i) answers[ids[i]] = std::move(replies[i]);
    return answers;
  };
  StateRequest resume;
  resume.what = StateRequest::What::resume;
  resume.maker = application;
  resume.number = static_cast<std::int64_t>(epoch);
  resume.batch = static_cast<std::int64_t>(wanted.epoch);
  resume.block_owners = wanted.blocks;
  for (auto& [id, answer] : ask_all(resume)) {
    // One that has not heard of the last driver has what may have become something else since.
    const bool is_of_last = static_cast<std::uint64_t>(answer.number) == wanted.epoch;
    if (is_of_last && !answer.kept.empty()) kept[id] = std::move(answer.kept);
    for (const std::uint64_t owner : answer.block_owners) blocks[owner].push_back(id);
  }
  std::optional<std::set<std::size_t>> missing;
  if (!wanted.states.empty() && !kept.empty()) missing = slots_->take_up(wanted, kept);
  StateRequest forget_kept;
  forget_kept.what = StateRequest::What::forget_kept;
  ask_all(forget_kept);
  // No service of this driver may have the number of one whose blocks are wanted.
  for (const std::uint64_t owner : wanted.blocks) engine_.skip_ids(owner / first_service_block);
  if (!blocks.empty()) std::fprintf(stderr, "sluice: executors have kept %zu blocks of receivers\n", blocks.size());
  const std::lock_guard lock(mutex_);
  for (auto& [owner, executors] : blocks) {
    std::erase_if(executors, [this](ExecutorId id) { return !members_->is_alive(id); });
    if (!executors.empty()) place_block({owner, 0}, executors);
  }
  for (const WantedState& one : wanted.states) {
    for (std::uint32_t p = 0; p < one.partitions; ++p) {
      if (missing.has_value() && !missing->contains(p)) continue;
      forget_.states.emplace_back(one.maker->operation(), p);
    }
  }
  return missing;
}

void ClusterScheduler::completed(Time batch, Duration took, Duration interval) {
  {
    const std::lock_guard lock(mutex_);
    losses_.clear();
  }
  slots_->completed(batch.time_since_epoch().count());
  copy_blocks();
  let_go();
  if (options_.scaling.is_on) {
    scaling_.add(took, interval);
    scale();
  }
}

// More executors, or one fewer: the newest that has no receiver.
void ClusterScheduler::scale() {
  const std::size_t wanted = scaling_.wanted(runtime_.clock().now(), wanted_, reserved_cores_);
  if (wanted == wanted_) return;
  std::fprintf(stderr, "sluice: %zu executors instead of %zu\n", wanted, wanted_);
  if (wanted < wanted_) {
    const std::vector<ExecutorId> ids = members_->ready();
    const auto idle = std::find_if(ids.rbegin(), ids.rend(), [this](ExecutorId id) { return !services_->has(id); });
    if (idle == ids.rend()) return;
    members_->leave(*idle);
  }
  wanted_ = wanted;
  manager_->run_executors(each_, wanted_);
}

// Executors that leave, of which nothing is needed any more.
void ClusterScheduler::let_go() {
  for (const ExecutorId executor : members_->leaving()) {
    if (!services_->move_away(executor) || !slots_->is_free(executor)) continue;
    bool is_free = true;
    {
      const std::lock_guard lock(mutex_);
      is_free = loads_[executor] == 0;
      for (const auto& [block, places] : block_places_) {
        is_free = is_free && (places.executors.size() > 1 || places.executors[0] != executor);
      }
    }
    if (is_free) members_->release(executor);
  }
}

// Blocks that are kept twice and lie on one executor only, or that lie only where executors leave.
void ClusterScheduler::copy_blocks() {
  struct Lacking {
    BlockId block;
    ExecutorId executor = 0;
    ExecutorId copy = 0;
  };
  std::vector<Lacking> lacking;
  const std::vector<ExecutorId> ids = members_->ready();
  const bool some_leave = !members_->leaving().empty();
  {
    const std::lock_guard lock(mutex_);
    if (!some_leave && (!lacks_copies_ || ids.size() < 2)) return;
    lacks_copies_ = false;
    for (const auto& [block, places] : block_places_) {
      const auto stay = std::count_if(places.executors.begin(), places.executors.end(),
                                      [&](ExecutorId id) { return contains(ids, id); });
      if (stay > 0 && (!places.twice || stay > 1 || ids.size() < 2)) continue;
      const auto has = [&at = places.executors](ExecutorId id) { return contains(at, id); };
      ExecutorId copy = another(places.executors[0], block.index);
      if (has(copy)) copy = *std::find_if_not(ids.begin(), ids.end(), has);
      lacking.push_back({block, places.executors[0], copy});
    }
  }
  // All at once: one after the other, over a network of 100 ms, they would never catch up with what comes in.
  std::vector<std::pair<ExecutorId, StateRequest>> requests;
  for (const auto& [block, executor, copy] : lacking) {
    StateRequest request;
    request.what = StateRequest::What::copy_block;
    request.operation = block.owner;
    request.partition = static_cast<std::uint32_t>(block.index);
    request.number = copy;
    requests.emplace_back(copy == 0 ? 0 : executor, std::move(request));
  }
  const std::vector<StateReply> replies = members_->call_all(std::move(requests));
  std::size_t failed = 0;
  for (std::size_t i = 0; i < lacking.size(); ++i) {
    const auto& [block, executor, copy] = lacking[i];
    const bool is_done = replies[i].error.empty() && members_->is_alive(copy);
    if (!is_done && failed++ == 0 && copy != 0) {
      std::fprintf(stderr, "sluice: a copy of a block could not be made: %s\n", replies[i].error.c_str());
    }
    const std::lock_guard lock(mutex_);
    const auto places = block_places_.find(block);
    lacks_copies_ = lacks_copies_ || !is_done;
    if (is_done && places != block_places_.end()) places->second.executors.push_back(copy);
  }
}

}  // namespace sluice::detail
