#include "sluice/cluster/members.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "sluice/cluster/handshake.h"
#include "sluice/cluster/network.h"
#include "sluice/runtime/errors.h"

namespace sluice::detail {
namespace {

Error lost_error(ExecutorId id) {
  return Error(Code::state_lost, {.why = "executor " + std::to_string(id) + " is lost"});
}

}  // namespace

struct Members::Call {
  ExecutorId executor = 0;
  bool is_done = false;
  bool is_lost = false;
  StateReply reply;
};

Members::Members(Runtime& runtime, std::unique_ptr<Listener> listener, Options options)
    : runtime_(runtime),
      listener_(std::move(listener)),
      options_(std::move(options)),
      changed_(runtime.condition()),
      printer_(runtime),
      threads_(runtime) {
  threads_.spawn("accept", [this] { accept(); });
  threads_.spawn("monitor", [this] { monitor(); });
}

Members::~Members() {
  stop();
  threads_.join();
  printer_.close();
  if (printing_ != nullptr) printing_->join();
}

void Members::stop() {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    changed_->notify_all();
  }
  send_all(encode_message(Shutdown{}));
  listener_->close();
  const std::lock_guard lock(mutex_);
  for (const auto& channel : channels_) channel->close();
}

void Members::set_application(const std::string& application, std::uint64_t epoch) {
  const std::lock_guard lock(mutex_);
  application_ = application;
  epoch_ = epoch;
}

// ---- They come

void Members::accept() {
  while (auto connection = listener_->accept(Time::max())) {
    auto channel = std::make_shared<Channel>(runtime_, std::move(connection));
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    channels_.push_back(channel);
    threads_.spawn("executor connection", [this, channel] { serve(channel); });
  }
}

void Members::serve(const std::shared_ptr<Channel>& channel) {
  ExecutorPtr executor;
  try {
    executor = welcome(channel);
    if (executor != nullptr) listen_to(executor);
  } catch (const Error& error) {
    const std::lock_guard lock(mutex_);
    if (!stopping_) std::fprintf(stderr, "sluice: an executor's connection: %s\n", error.details().why.c_str());
  }
  channel->close();
  if (executor != nullptr) lost(executor);
  const std::lock_guard lock(mutex_);
  channels_.remove(channel);
}

Members::ExecutorPtr Members::welcome(const std::shared_ptr<Channel>& channel) {
  const std::optional<Hello> hello = hear_hello(runtime_, *channel);
  if (!hello.has_value()) return nullptr;
  Welcome answer = options_.welcome;
  answer.refusal = refusal_of(*hello, options_.token);
  if (answer.refusal.empty() && (hello->cores == 0 || hello->address.empty())) answer.refusal = "it is no executor";
  if (!answer.refusal.empty()) {
    std::fprintf(stderr, "sluice: %s is refused: %s\n", channel->peer().c_str(), answer.refusal.c_str());
    channel->send(encode_message(answer));
    return nullptr;
  }
  auto executor = std::make_shared<Executor>();
  executor->channel = channel;
  executor->address = reached_at(hello->address, channel->peer());
  executor->cores = hello->cores;
  executor->pid = hello->pid;
  executor->host = hello->host;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return nullptr;
    executor->id = ++last_id_;
    answer.application = application_;
    answer.epoch = epoch_;
    if (options_.on_come) options_.on_come(executor->id, executor->pid);
  }
  answer.id = executor->id;
  channel->send(encode_message(answer));
  std::uint64_t change = 0;
  {
    const std::lock_guard lock(mutex_);
    executor->heard = runtime_.clock().now();
    executors_[executor->id] = executor;
    change = ++changes_;
  }
  tell_peers(change);
  const std::lock_guard lock(mutex_);
  executor->is_ready = true;
  sort();
  changed_->notify_all();
  return executor;
}

// Returns when all have been told of that change. Many that come at once are told of in few messages; a whole list to
// each for each of them would be bytes that grow with the cube of their number.
void Members::tell_peers(std::uint64_t change) {
  std::unique_lock lock(mutex_);
  while (is_telling_ && told_ < change && !stopping_) changed_->wait(lock);
  if (told_ >= change || stopping_) return;
  is_telling_ = true;
  const std::uint64_t last = changes_;
  Peers all;
  Peers news;
  news.gone = std::exchange(gone_, {});
  std::vector<std::pair<ExecutorPtr, bool>> executors;
  for (const auto& [id, executor] : executors_) {
    const bool is_new = !std::exchange(executor->is_told, true);
    all.come.push_back({id, executor->address});
    if (is_new) news.come.push_back(all.come.back());
    executors.emplace_back(executor, is_new);
  }
  lock.unlock();
  const std::string to_new = encode_message(all);
  const std::string to_others = encode_message(news);
  for (const auto& [executor, is_new] : executors) send_to(executor, is_new ? to_new : to_others);
  lock.lock();
  is_telling_ = false;
  told_ = last;
  changed_->notify_all();
}

// ---- They are spoken to

void Members::listen_to(const ExecutorPtr& executor) {
  while (const auto message = executor->channel->receive()) {
    {
      const std::lock_guard lock(mutex_);
      executor->heard = runtime_.clock().now();
    }
    const std::uint8_t kind = message_kind(*message);
    if (kind == Heartbeat::kind) {
      send_to(executor, *message);
      continue;
    }
    if (kind == LogLines::kind) {
      show(*executor, decode_message<LogLines>(*message));
      continue;
    }
    if (kind != StateReply::kind) {
      options_.on_message(executor->id, *message);
      continue;
    }
    auto reply = decode_message<StateReply>(*message);
    const std::lock_guard lock(mutex_);
    const auto waiting = calls_.find(reply.request);
    if (waiting == calls_.end() || waiting->second->executor != executor->id) continue;
    waiting->second->reply = std::move(reply);
    waiting->second->is_done = true;
    calls_.erase(waiting);
    changed_->notify_all();
  }
}

void Members::show(const Executor& executor, const LogLines& lines) {
  {
    const std::lock_guard lock(mutex_);
    if (printing_ == nullptr) printing_ = runtime_.spawn("lines of executors", [this] { printer_.run(); });
  }
  const std::string host = host_of(executor.address);
  printer_.add("executor " + std::to_string(executor.id) + (host.empty() ? "" : " at " + host), lines);
}

// One that cannot be sent to is lost: who listens to it sees that.
void Members::send_to(const ExecutorPtr& executor, std::string_view message) {
  try {
    executor->channel->send(message);
  } catch (const Error&) {
    executor->channel->close();
  }
}

std::vector<Members::ExecutorPtr> Members::all() {
  const std::lock_guard lock(mutex_);
  std::vector<ExecutorPtr> executors;
  for (const auto& [id, executor] : executors_) executors.push_back(executor);
  return executors;
}

void Members::send(ExecutorId id, std::string_view message) {
  ExecutorPtr executor;
  {
    const std::lock_guard lock(mutex_);
    const auto found = executors_.find(id);
    if (found == executors_.end()) return;
    executor = found->second;
  }
  send_to(executor, message);
}

void Members::send_all(std::string_view message) {
  for (const ExecutorPtr& executor : all()) send_to(executor, message);
}

std::shared_ptr<Members::Call> Members::ask(ExecutorId id, StateRequest&& request) {
  const auto call = std::make_shared<Call>();
  call->executor = id;
  ExecutorPtr executor;
  {
    const std::lock_guard lock(mutex_);
    const auto found = executors_.find(id);
    call->is_lost = found == executors_.end();
    if (call->is_lost) return call;
    executor = found->second;
    request.request = ++last_request_;
    calls_[request.request] = call;
  }
  send_to(executor, encode_message(request));
  return call;
}

StateReply Members::wait_for(const std::shared_ptr<Call>& call) {
  std::unique_lock lock(mutex_);
  while (!call->is_done && !call->is_lost) changed_->wait(lock);
  if (!call->is_done) throw lost_error(call->executor);
  if (!call->reply.error.empty()) throw Error(Code::state_lost, {.why = call->reply.error});
  return std::move(call->reply);
}

StateReply Members::call(ExecutorId id, StateRequest request) { return wait_for(ask(id, std::move(request))); }

std::vector<StateReply> Members::call_all(std::vector<std::pair<ExecutorId, StateRequest>> requests) {
  std::vector<std::shared_ptr<Call>> calls;
  for (auto& [id, request] : requests) calls.push_back(ask(id, std::move(request)));
  std::vector<StateReply> replies;
  for (const auto& call : calls) {
    try {
      replies.push_back(wait_for(call));
    } catch (const Error& error) {
      replies.emplace_back();
      replies.back().error = error.details().why;
    }
  }
  return replies;
}

// ---- They go

void Members::monitor() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const Time now = runtime_.clock().now();
    for (const auto& [id, executor] : executors_) {
      if (now - executor->heard < options_.timeout) continue;
      std::fprintf(stderr, "sluice: executor %u has not been heard of for %s and is given up\n", id,
                   to_string(options_.timeout).c_str());
      executor->channel->close();
    }
    const Time next = now + options_.timeout / 5;
    while (!stopping_ && runtime_.clock().now() < next) changed_->wait_until(lock, next);
  }
}

void Members::give_up(ExecutorId id, const std::string& why) {
  const std::lock_guard lock(mutex_);
  const auto found = executors_.find(id);
  if (found == executors_.end()) return;
  std::fprintf(stderr, "sluice: executor %u is given up: %s\n", id, why.c_str());
  found->second->channel->close();
}

void Members::lost(const ExecutorPtr& executor) {
  bool tells = false;
  bool was_released = false;
  std::uint64_t change = 0;
  {
    const std::lock_guard lock(mutex_);
    was_released = executor->is_released;
    executors_.erase(executor->id);
    sort();
    gone_.push_back(executor->id);
    change = ++changes_;
    tells = !stopping_;
  }
  if (tells) {
    std::fprintf(stderr, "sluice: executor %u (process %lld) %s\n", executor->id, static_cast<long long>(executor->pid),
                 was_released ? "has left" : "is lost");
    tell_peers(change);  // M4
    options_.on_lost(executor->id);
  }
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(calls_, [&](const auto& waiting) {
      Call& call = *waiting.second;
      call.is_lost = call.executor == executor->id;
      return call.is_lost;
    });
    changed_->notify_all();
  }
}

void Members::sort() {
  staying_.clear();
  leaving_.clear();
  for (const auto& [id, executor] : executors_) {
    if (executor->is_ready) (executor->is_leaving ? leaving_ : staying_).push_back(id);
  }
}

std::vector<ExecutorId> Members::ready() {
  const std::lock_guard lock(mutex_);
  return staying_.empty() ? leaving_ : staying_;
}

std::vector<ExecutorId> Members::leaving() {
  const std::lock_guard lock(mutex_);
  return staying_.empty() ? std::vector<ExecutorId>() : leaving_;
}

void Members::leave(ExecutorId id) {
  const std::lock_guard lock(mutex_);
  const auto found = executors_.find(id);
  if (found == executors_.end()) return;
  found->second->is_leaving = true;
  sort();
}

void Members::release(ExecutorId id) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = executors_.find(id);
    if (found == executors_.end()) return;
    found->second->is_released = true;
  }
  send(id, encode_message(Shutdown{}));
}

std::size_t Members::cores() {
  const std::lock_guard lock(mutex_);
  std::size_t cores = 0;
  for (const auto& [id, executor] : executors_) cores += executor->is_ready ? executor->cores : 0;
  return cores;
}

std::size_t Members::cores(ExecutorId id) {
  const std::lock_guard lock(mutex_);
  const auto found = executors_.find(id);
  return found == executors_.end() ? 0 : found->second->cores;
}

bool Members::is_on(ExecutorId id, const std::string& host) {
  const std::lock_guard lock(mutex_);
  const auto found = executors_.find(id);
  if (found == executors_.end()) return false;
  return found->second->host == host || host_of(found->second->address) == host;
}

std::string Members::host(ExecutorId id) {
  const std::lock_guard lock(mutex_);
  const auto found = executors_.find(id);
  return found == executors_.end() ? std::string() : host_of(found->second->address);
}

bool Members::is_alive(ExecutorId id) {
  const std::lock_guard lock(mutex_);
  return executors_.contains(id);
}

bool Members::wait_for(std::size_t count, Duration time_max) {
  const Time deadline = runtime_.clock().now() + time_max;
  std::unique_lock lock(mutex_);
  while (staying_.size() + leaving_.size() < count) {
    if (stopping_ || runtime_.clock().now() >= deadline) return false;
    changed_->wait_until(lock, deadline);
  }
  return true;
}

std::vector<std::int64_t> Members::pids() {
  std::vector<std::int64_t> all_pids;
  for (const ExecutorPtr& executor : all()) all_pids.push_back(executor->pid);
  return all_pids;
}

}  // namespace sluice::detail
