#include "sluice/cluster/executor.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <set>
#include <utility>

#include "sluice/cluster/handshake.h"
#include "sluice/core/local_runner.h"
#include "sluice/runtime/kill_point.h"
#include "sluice/runtime/planted_bug.h"
#include "sluice/runtime/process.h"

namespace sluice::detail {
namespace {

/// X4. The driver gives up after 5 signs of life that did not come.
constexpr int silence_max = 10;
/// So long an answer of another executor may take, in times between signs of life: 10 s by default.
constexpr int answer_beats_max = 50;
/// So long shuffle output that is to come is waited for before who asks is told that it has not: long before that.
constexpr int waiting_beats_max = 10;

/// From the exception being handled.
TaskDone failure() {
  TaskDone done;
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
  return done;
}

/// Calls f(read, target, at) for each shuffle that the task reads. SLU-301 where it is not told where that lies.
template <class F>
void for_each_read(const TaskProgram& program, const std::vector<ShuffleAt>& reads, const F& f) {
  for (const TaskStep& step : program.steps) {
    const auto* read = std::get_if<ReadShuffle>(&step.what);
    if (read == nullptr) continue;
    const auto at = std::find_if(reads.begin(), reads.end(),
                                 [read](const ShuffleAt& each) { return each.shuffle == read->shuffle; });
    if (at == reads.end()) throw Error(Code::corrupt_data, {.why = "a task does not say where its shuffle lies"});
    f(*read, step.partition, *at);
  }
}

}  // namespace

struct Executor::Task {
  RunTask message;
  TaskProgram program;
  std::atomic<bool> cancelled{false};
  std::mutex mutex;
  /// It has neither begun nor been given up.
  std::atomic<bool> waits{true};
  /// Answers that are missing, and one more while they are asked for.
  std::size_t missing = 1;
  /// One more answer is to come.
  void expect_answer() {
    const std::lock_guard lock(mutex);
    ++missing;
  }
  /// True once, for who begins it, or gives it up.
  bool stop_waiting() { return waits.exchange(false); }
  /// An executor that has not given what it had.
  ExecutorId lost_place = 0;
  /// Map partitions that were not where they were to be, by shuffle and executor.
  std::map<std::pair<std::uint64_t, ExecutorId>, std::set<std::uint32_t>> lost_output;
  /// By shuffle and target, then by map partition, packed; empty for an empty one. Those here are not among them.
  std::map<std::pair<std::uint64_t, std::uint32_t>, std::map<std::uint32_t, std::string>> fetched;
  /// Encoded.
  std::map<BlockId, std::string> fetched_blocks;
};

Executor::Executor(Runtime& runtime, Transport& transport, ExecutorOptions options, std::shared_ptr<StateKeeper> states)
    : runtime_(runtime),
      transport_(transport),
      options_(std::move(options)),
      states_(states != nullptr
                  ? std::move(states)
                  : std::make_shared<StateKeeper>(std::make_unique<BlockStore>(
                        runtime, BlockStore::Options{options_.memory_bytes / 2, options_.spill_directory}))),
      blocks_(states_->blocks()),
      shuffles_(runtime, {options_.memory_bytes / 2, options_.spill_directory, options_.compression}),
      changed_(runtime.condition()),
      peers_(runtime, transport, options_.token,
             [this](ExecutorId from, std::string_view message, const auto& reply) { answer(from, message, reply); }),
      services_(runtime, blocks_, peers_,
                {[this](std::string_view message) { tell_driver(message); },
                 [this](std::function<void()> work) { launch(std::move(work)); }, options_.cores,
                 [this] { return "executor " + std::to_string(id_) + ", process " + std::to_string(process_id()); }}),
      pool_(runtime.executors(options_.cores)) {}

Executor::~Executor() { close(); }

void Executor::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    for (const auto& [ticket, task] : tasks_) task->cancelled = true;
    if (to_driver_ != nullptr) to_driver_->close();
    if (driver_ != nullptr) driver_->close();
    changed_->notify_all();
  }
  services_.close();
  peers_.close();
}

bool Executor::leave() {
  {
    const std::lock_guard lock(mutex_);
    if (!is_member_ || closed_) return false;
  }
  tell_driver(encode_message(Leave{}));
  return true;
}

std::shared_ptr<StateKeeper> Executor::keep_state() { return states_->keep_aside() ? states_ : nullptr; }

bool Executor::run() {
  const std::string listens = peers_.listen(Address{options_.listen}).text;
  register_with_driver(options_.announce.empty() ? listens : options_.announce);
  peers_.start(id_);
  const auto beating = runtime_.spawn("heartbeat", [this] { beat(); });
  std::unique_ptr<Thread> logging;
  if (logs_ != nullptr) {
    logging =
        runtime_.spawn("log lines", [this] { logs_->run([this](std::string_view lines) { tell_driver(lines); }); });
  }
  const bool is_shut_down = read_from_driver();
  close();
  beating->join();
  if (logging != nullptr) {
    logs_->close();
    logging->join();
  }
  services_.join();
  peers_.stop();
  pool_.reset();  // after the tasks that run
  peers_.stop();  // what these have begun
  blocks_.remove_spilled();
  shuffles_.remove_spilled();
  return is_shut_down;
}

// ---- The driver

void Executor::register_with_driver(const std::string& address) {
  {
    const std::lock_guard lock(mutex_);
    to_driver_ = transport_.connector(Address{options_.driver});
    if (closed_) to_driver_->close();
  }
  const Time deadline = runtime_.clock().now() + handshake_time_max;
  auto channel = std::make_unique<Channel>(runtime_, to_driver_->connect(deadline));
  {
    const std::lock_guard lock(mutex_);
    driver_ = std::move(channel);
    if (closed_) driver_->close();
  }
  Hello hello;
  hello.token = options_.token;
  hello.address = address;
  hello.cores = options_.cores;
  hello.pid = process_id();
  hello.host = options_.host.empty() ? host_name() : options_.host;
  const Welcome welcome = say_hello(runtime_, *driver_, std::move(hello));
  if (!welcome.application.empty()) {  // it has begun already
    states_->begin(welcome.application, welcome.epoch);
    states_->drop_aside();
  }
  id_ = welcome.id;
  heartbeat_ = welcome.heartbeat;
  heard_ = runtime_.clock().now();
  hash_seed_ = welcome.hash_seed;
  states_->set_hash_seed(hash_seed_);
  check_views_ = welcome.check_views;
  if (check_views_) Arena::set_poison_released(true);
  const std::lock_guard lock(mutex_);
  is_member_ = true;
}

void Executor::beat() {
  const std::string message = encode_message(Heartbeat{});
  for (;;) {
    {
      const Time next = runtime_.clock().now() + heartbeat_;
      std::unique_lock lock(mutex_);
      while (!closed_ && runtime_.clock().now() < next) changed_->wait_until(lock, next);
      if (closed_) return;
    }
    const Time now = runtime_.clock().now();
    if (now - heard_.load() > silence_max * heartbeat_) {
      std::fprintf(stderr, "sluice: executor %u: nothing has been heard of the driver for %s\n", id_,
                   to_string(silence_max * heartbeat_).c_str());
      return driver_->close();
    }
    give_up_waiting(now - waiting_beats_max * heartbeat_);
    peers_.give_up_asked_before(now - answer_beats_max * heartbeat_);
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

void Executor::send_lines() {
  if (logs_ != nullptr) logs_->send([this](std::string_view lines) { tell_driver(lines); });
}

bool Executor::read_from_driver() {
  try {
    while (const auto message = driver_->receive()) {
      heard_ = runtime_.clock().now();
      if (message_kind(*message) == Heartbeat::kind) continue;
      if (message_kind(*message) == Shutdown::kind) return true;
      handle(*message);
    }
  } catch (const Error& error) {
    const std::lock_guard lock(mutex_);
    if (!closed_) std::fprintf(stderr, "sluice: executor %u: %s\n", id_, error.details().why.c_str());
  }
  return false;
}

void Executor::handle(std::string_view message) {
  switch (message_kind(message)) {
    case Peers::kind: return peers_.change_peers(decode_message<Peers>(message));
    case RunTasks::kind: {
      for (RunTask& task : decode_message<RunTasks>(message).tasks) start(std::move(task));
      return;
    }
    case StateRequest::kind: return handle_state(decode_message<StateRequest>(message));
    case StartService::kind: return services_.start(decode_message<StartService>(message));
    case StopService::kind: return services_.stop(decode_message<StopService>(message));
    case ServiceMessage::kind: return services_.pass_on(decode_message<ServiceMessage>(message));
    case Cancel::kind: return cancel(decode_message<Cancel>(message));
    case Forget::kind: {
      const auto forget = decode_message<Forget>(message);
      for (const std::uint64_t shuffle : forget.shuffles) shuffles_.close(shuffle);
      for (const auto& [first, last] : forget.block_owners) blocks_.remove_owners(first, last);
      return states_->forget(forget.states);
    }
    case Shared::kind: {
      auto shared = decode_message<Shared>(message);
      const std::lock_guard lock(mutex_);
      shared_[shared.id] = std::move(shared);
      changed_->notify_all();
      return;
    }
    default: throw Error(Code::corrupt_data, {.why = "a message of the driver of unknown kind"});
  }
}

// Several tasks may want the same one; it is kept until all have it, which is as long as the process needs it.
std::string Executor::load_shared_value(std::uint64_t id) {
  bool asks = false;
  {
    const std::lock_guard lock(mutex_);
    asks = shared_.emplace(id, std::nullopt).second;
  }
  if (asks) tell_driver(encode_message(AskShared{id}));
  std::unique_lock lock(mutex_);
  while (!closed_ && !shared_.at(id).has_value()) changed_->wait(lock);
  if (closed_) throw Error(Code::task_cancelled, {});
  const Shared& came = *shared_.at(id);
  if (!came.error.empty()) throw Error(Code::captures_pointer, {.why = came.error});
  return came.bytes;
}

void Executor::handle_state(const StateRequest& request) {
  if (request.what == StateRequest::What::resume) {
    states_->begin(request.maker, static_cast<std::uint64_t>(request.number));
  }
  const bool copies_block = request.what == StateRequest::What::copy_block;
  if (!copies_block && request.what != StateRequest::What::copy) {
    return tell_driver(encode_message(states_->handle(request)));
  }
  const auto reply = [this, number = request.request](std::string error) {
    StateReply message;
    message.request = number;
    message.error = std::move(error);
    tell_driver(encode_message(message));
  };
  const auto answered = [reply](std::optional<std::string_view> answer) {
    const std::optional<Taken> taken = decode_answer<Taken>(answer);
    reply(taken.has_value() ? taken->error : "the connection has ended");
  };
  // Not on this thread: the other one may take its time, and the driver may have to say that it is gone.
  const auto to = static_cast<ExecutorId>(request.number);
  if (copies_block) {
    const BlockId block{request.operation, request.partition};
    return launch([this, reply, answered, to, block] {
      const std::optional<KeepBlock> message = block_message(block, Keep::memory_and_disk);
      if (!message.has_value()) return reply("the block is not here");
      peers_.ask(to, *message, answered);
    });
  }
  StateChanges changes;
  try {
    changes = states_->whole(request);
  } catch (const Error& error) {
    return reply(error.what());
  }
  launch([this, answered, to, changes = std::move(changes)] { peers_.ask(to, changes, answered); });
}

std::optional<KeepBlock> Executor::block_message(const BlockId& block, Keep level) {
  const RestedPtr records = blocks_.get(block);
  if (records == nullptr) return std::nullopt;
  return keep_block(block, *records, level);
}

// ---- Tasks

// Of a closed executor nothing is waited for.
void Executor::launch(std::function<void()> work) {
  const std::lock_guard lock(mutex_);
  if (!closed_) pool_->launch(std::move(work));
}

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
  try {
    Decoder in(message.program);
    task->program = TaskProgram::decode_from(in);
    in.expect_end();
    const std::map<std::uint64_t, std::uint32_t> maps(message.writes.begin(), message.writes.end());
    for (const TaskOutput& output : task->program.outputs) {
      const auto* write = std::get_if<WriteShuffle>(&output.what);
      if (write != nullptr) shuffles_.open(write->shuffle, maps.at(write->shuffle), write->kernel);
    }
    if (!states_->prepare(task->program, message.must_exist)) {
      if (task->stop_waiting()) report_lost(task, id_);
      return;
    }
    ask_for_buckets(task);
  } catch (...) {
    if (task->stop_waiting()) report(task, failure());
    return;
  }
  answer_came(task);
}

void Executor::cancel(const Cancel& cancel) {
  std::vector<TaskPtr> tasks;
  {
    const std::lock_guard lock(mutex_);
    for (auto task = tasks_.lower_bound(cancel.first); task != tasks_.end() && task->first <= cancel.last; ++task) {
      task->second->cancelled = true;
      tasks.push_back(task->second);
    }
  }
  for (const TaskPtr& task : tasks) {
    if (!task->stop_waiting()) continue;
    TaskDone done;
    done.how = TaskDone::How::failed;
    done.code = static_cast<std::uint32_t>(Code::task_cancelled);
    report(task, std::move(done));
  }
}

void Executor::ask_for_buckets(const TaskPtr& task) {
  for_each_read(task->program, task->message.reads,
                [&](const ReadShuffle& read, std::uint32_t target, const ShuffleAt& at) {
                  std::map<ExecutorId, std::vector<std::uint32_t>> by_place;
                  for (std::uint32_t map = 0; map < at.executors.size(); ++map) {
                    by_place[at.executors[map]].push_back(map);
                  }
                  if (const auto own = by_place.extract(id_); at.is_to_come && !own.empty()) {
                    task->expect_answer();
                    await_own(task, read.shuffle, own.mapped());
                  }
                  for (auto& [place, maps] : by_place) {
                    fetch(task, place, {0, read.shuffle, target, std::move(maps), at.is_to_come});
                  }
                });
  for (const BlockAt& at : task->message.blocks) {
    if (at.executor == id_) continue;
    ask_for<FetchedBlock>(task, at.executor, FetchBlock{0, at.block}, [task, block = at.block](FetchedBlock& fetched) {
      // One that is not there any more was evicted: the task finds that out.
      if (fetched.found) task->fetched_blocks[block] = std::move(fetched.records);
      return true;
    });
  }
}

// What a task needs of another executor. `keep` gets the answer, and says whether it is what was asked for.
template <class Answer, class Question, class Keep>
void Executor::ask_for(const TaskPtr& task, ExecutorId from, const Question& question, Keep keep) {
  task->expect_answer();
  peers_.ask(from, question, [this, task, from, keep = std::move(keep)](std::optional<std::string_view> bytes) {
    std::optional<Answer> answer = decode_answer<Answer>(bytes);
    {
      const std::lock_guard lock(task->mutex);
      if (!answer.has_value() || !keep(*answer)) task->lost_place = from;
    }
    answer_came(task);
  });
}

void Executor::fetch(const TaskPtr& task, ExecutorId from, const Fetch& question) {
  ask_for<Fetched>(task, from, question, [this, task, from, question](Fetched& fetched) {
    if (fetched.is_to_come) {
      if (!task->waits) return true;
      // Not on this thread, which reads answers: it must not wait until a question is taken.
      ++task->missing;
      launch([this, task, from, question] {
        fetch(task, from, question);
        answer_came(task);
      });
      return true;
    }
    if (!fetched.missing.empty()) {
      task->lost_output[{question.shuffle, from}].insert(fetched.missing.begin(), fetched.missing.end());
      return true;
    }
    if (fetched.buckets.size() != question.maps.size()) return false;
    auto& by_map = task->fetched[{question.shuffle, question.target}];
    for (std::size_t i = 0; i < question.maps.size(); ++i) by_map[question.maps[i]] = std::move(fetched.buckets[i]);
    return true;
  });
}

// One of those that are missing is this.
void Executor::await_own(const TaskPtr& task, std::uint64_t shuffle, const std::vector<std::uint32_t>& maps) {
  await_output(shuffle, maps, [this, task, shuffle, maps](bool has_come) {
    if (has_come || !task->waits) return answer_came(task);
    await_own(task, shuffle, maps);
  });
}

void Executor::answer_came(const TaskPtr& task) {
  {
    const std::lock_guard lock(task->mutex);
    if (--task->missing > 0) return;
  }
  if (!task->stop_waiting()) return;
  launch([this, task] { execute(task); });
}

// What was here and is not any more is in the task's lost_output then.
BucketsByTarget Executor::gather_buckets(const TaskPtr& task) {
  BucketsByTarget buckets;
  for_each_read(task->program, task->message.reads,
                [&](const ReadShuffle& read, std::uint32_t target, const ShuffleAt& at) {
                  const std::vector<ExecutorId>& places = at.executors;
                  auto& fetched = task->fetched[{read.shuffle, target}];
                  std::vector<BucketPtr> all;
                  for (std::uint32_t map = 0; map < places.size(); ++map) {
                    if (places[map] == id_) {
                      const auto here = shuffles_.find(read.shuffle, map, target);
                      if (!here.has_value()) task->lost_output[{read.shuffle, id_}].insert(map);
                      all.push_back(here.value_or(nullptr));
                      continue;
                    }
                    const std::string bytes = std::move(fetched.at(map));
                    all.push_back(bytes.empty() ? nullptr : unpack_bucket(*read.kernel, bytes));
                  }
                  if (planted_bug("order-of-arrival")) {
                    // Those that were here first, then what has come.
                    std::vector<BucketPtr> arrived;
                    for (const bool is_here : {true, false}) {
                      for (std::uint32_t map = 0; map < places.size(); ++map) {
                        if ((places[map] == id_) == is_here) arrived.push_back(all[map]);
                      }
                    }
                    all = std::move(arrived);
                  }
                  buckets[{read.shuffle, target}] = std::move(all);
                });
  return buckets;
}

std::map<BlockId, RestedPtr> Executor::fetched_blocks(const Task& task) {
  std::map<BlockId, RestedPtr> blocks;
  for (const TaskStep& step : task.program.steps) {
    const auto* read = std::get_if<ReadBlock>(&step.what);
    if (read == nullptr) continue;
    const auto fetched = task.fetched_blocks.find(read->block);
    if (fetched == task.fetched_blocks.end()) continue;
    Decoder in(fetched->second);
    blocks[read->block] = RestedRecords::decode_from(in, *read->type);
    in.expect_end();
  }
  return blocks;
}

void Executor::execute(const TaskPtr& task) {
  if (task->lost_place != 0) return report_lost(task, task->lost_place);
  if (!task->lost_output.empty()) return report_output_lost(task);
  const RunTask& message = task->message;
  TaskDone done;
  try {
    const BucketsByTarget buckets = gather_buckets(task);
    if (!task->lost_output.empty()) return report_output_lost(task);
    TaskId id;
    id.job = message.job;
    id.stage = message.stage;
    id.task = message.task;
    id.attempt = message.attempt;
    id.batch = message.batch;
    const std::map<BlockId, RestedPtr> blocks = fetched_blocks(*task);
    TaskEnvironment environment{runtime_,   blocks_,      shuffles_, states_->store(),
                                hash_seed_, check_views_, &buckets,  &blocks};
    const TaskOutcome outcome = attempt_task(task->program, id, environment, &task->cancelled);
    tell_of_output(task->program);
    if (outcome.error != nullptr) {
      done.failed.assign(outcome.failed.begin(), outcome.failed.end());
      std::rethrow_exception(outcome.error);
    }
    if (outcome.lost.has_value()) {
      done.how = TaskDone::How::block_lost;
      done.block_owner = outcome.lost->owner;
      done.block_index = outcome.lost->index;
      return report(task, std::move(done));
    }
    Encoder result;
    encode_result(outcome.result, result);
    done.result = result.take();
  } catch (...) {
    TaskDone failed = failure();
    failed.failed = std::move(done.failed);
    return report(task, std::move(failed));
  }
  send_copies(task, std::move(done));
}

void Executor::send_copies(const TaskPtr& task, TaskDone&& done) {
  struct Sent {
    std::mutex mutex;
    std::size_t missing = 1;
    TaskDone done;
  };
  const auto sent = std::make_shared<Sent>();
  sent->done = std::move(done);
  const auto count_down = [this, task, sent](ExecutorId failed) {
    {
      const std::lock_guard lock(sent->mutex);
      if (failed != 0) sent->done.place = failed;
      if (--sent->missing > 0) return;
    }
    if (!planted_bug("copy-not-awaited")) report(task, std::move(sent->done));
  };
  const auto send = [&](ExecutorId to, const auto& message) {
    {
      const std::lock_guard lock(sent->mutex);
      ++sent->missing;
    }
    peers_.ask(to, message, [count_down, to](std::optional<std::string_view> answer) {
      const std::optional<Taken> taken = decode_answer<Taken>(answer);
      count_down(taken.has_value() && taken->error.empty() ? 0 : to);
    });
  };
  kill_point("executor.before_copy");
  const RunTask& message = task->message;
  if (message.copy_at != 0) {
    for (const StateChanges& changes : states_->changes_of(task->program, message.must_exist)) {
      send(message.copy_at, changes);
    }
  }
  for (const TaskOutput& output : task->program.outputs) {
    const auto* block = std::get_if<WriteBlock>(&output.what);
    if (block == nullptr || !block->twice || message.block_copy_at == 0) continue;
    const auto kept = block_message(block->block, static_cast<Keep>(block->level));
    if (kept.has_value()) send(message.block_copy_at, *kept);
  }
  if (planted_bug("copy-not-awaited")) report(task, TaskDone(sent->done));
  count_down(0);
}

void Executor::report(const TaskPtr& task, TaskDone&& done) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.erase(task->message.ticket);
  }
  done.ticket = task->message.ticket;
  kill_point("executor.before_report");
  send_lines();
  tell_driver(encode_message(done));
}

void Executor::report_lost(const TaskPtr& task, ExecutorId place) {
  TaskDone done;
  done.how = TaskDone::How::place_lost;
  done.place = place;
  report(task, std::move(done));
}

void Executor::report_output_lost(const TaskPtr& task) {
  TaskDone done;
  done.how = TaskDone::How::output_lost;
  for (const auto& [where, maps] : task->lost_output) {
    done.lost_output.push_back({where.first, where.second, {maps.begin(), maps.end()}});
  }
  report(task, std::move(done));
}

// ---- Other executors

void Executor::answer(ExecutorId from, std::string_view message, const PeerConnections::Reply& reply) {
  switch (message_kind(message)) {
    case Fetch::kind: {
      const auto fetch = decode_message<Fetch>(message);
      if (!fetch.is_to_come) return reply.send(encode_message(buckets_for(fetch)));
      return await_output(fetch.shuffle, fetch.maps, [this, fetch, reply](bool has_come) {
        if (!has_come) return reply.queue(encode_message(Fetched{.request = fetch.request, .is_to_come = true}));
        reply.send_or_queue(encode_message(buckets_for(fetch)));  // by a task, which is not to be held up
      });
    }
    case FetchBlock::kind: {
      const auto question = decode_message<FetchBlock>(message);
      FetchedBlock fetched;
      fetched.request = question.request;
      if (const RestedPtr records = blocks_.get(question.block)) {
        fetched.records = encoded(*records);
        fetched.found = true;
      }
      return reply.send(encode_message(fetched));
    }
    default: break;
  }
  Taken taken;
  taken.request = message_request(message);
  try {
    if (message_kind(message) == KeepBlock::kind) {
      const auto block = decode_message<KeepBlock>(message);
      Decoder type(block.type);
      Decoder records(block.records);
      blocks_.put(block.block, RestedRecords::decode_from(records, *decode_type(type)), static_cast<Keep>(block.level));
    } else {
      states_->take(decode_message<StateChanges>(message), [&] { return peers_.has(from); });
    }
  } catch (const Error& error) {
    taken.error = error.what();
  }
  reply.send(encode_message(taken));
}

// `told` is called at once when it has come already, else by who made it, or by who gives up; that must not wait.
void Executor::await_output(std::uint64_t shuffle, const std::vector<std::uint32_t>& maps, Told told) {
  {
    // Under the mutex: else it could come between the question and the entry, and nobody would be told.
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    if (shuffles_.is_to_come(shuffle, maps)) {
      awaited_.push_back({shuffle, maps, runtime_.clock().now(), std::move(told)});
      return;
    }
  }
  told(true);
}

void Executor::tell_of_output(const TaskProgram& program) {
  std::vector<std::uint64_t> written;
  for (const TaskOutput& output : program.outputs) {
    if (const auto* write = std::get_if<WriteShuffle>(&output.what)) written.push_back(write->shuffle);
  }
  if (written.empty()) return;
  std::list<Awaited> come;
  {
    const std::lock_guard lock(mutex_);
    for (auto awaited = awaited_.begin(); awaited != awaited_.end();) {
      const auto next = std::next(awaited);
      if (contains(written, awaited->shuffle) && !shuffles_.is_to_come(awaited->shuffle, awaited->maps)) {
        come.splice(come.end(), awaited_, awaited);
      }
      awaited = next;
    }
  }
  for (const Awaited& awaited : come) awaited.told(true);
}

// Nothing may ever come of it: who asks may not want it any more.
void Executor::give_up_waiting(Time since) {
  std::list<Awaited> late;
  {
    const std::lock_guard lock(mutex_);
    while (!awaited_.empty() && awaited_.front().since < since) {
      late.splice(late.end(), awaited_, awaited_.begin());
    }
  }
  for (const Awaited& awaited : late) awaited.told(false);
}

// All that is missing is told at once: it is made again in one round.
Fetched Executor::buckets_for(const Fetch& fetch) {
  Fetched fetched;
  fetched.request = fetch.request;
  for (const std::uint32_t map : fetch.maps) {
    std::optional<std::string> bucket = shuffles_.find_packed(fetch.shuffle, map, fetch.target);
    if (!bucket.has_value()) {
      fetched.missing.push_back(map);
    } else {
      fetched.buckets.push_back(std::move(*bucket));
    }
  }
  if (!fetched.missing.empty()) fetched.buckets.clear();
  return fetched;
}

}  // namespace sluice::detail
