#include "sluice/cluster/peer_connections.h"

#include <atomic>
#include <deque>
#include <utility>

#include "sluice/cluster/handshake.h"
#include "sluice/cluster/network.h"
#include "sluice/runtime/errors.h"

namespace sluice::detail {
namespace {

/// The buffers of a connection take so much, mostly.
constexpr std::size_t small_bytes_max = 64 << 10;

Error not_reached(ExecutorId id, const std::string& why) {
  return Error(Code::network_failed, {.why = "executor " + std::to_string(id) + ": " + why});
}

}  // namespace

/// To ask.
struct PeerConnections::Link {
  Link(Runtime& runtime, ExecutorId to_id) : to(to_id), connected(runtime.condition()) {}
  const ExecutorId to;
  /// Set once, before `is_connecting` becomes false. Until then who connects is woken by closing it.
  std::unique_ptr<Channel> channel;
  std::mutex mutex;
  std::unique_ptr<Condition> connected;
  bool is_connecting = true;
  bool is_broken = false;
  struct Question {
    Time asked{};
    Answered answered;
  };
  std::map<std::uint64_t, Question> waiting;
};

/// To answer.
struct PeerConnections::Served {
  Served(Runtime& runtime, std::unique_ptr<Connection> connection) : channel(runtime, std::move(connection)) {}
  void send(std::string_view message) {
    ++sending;
    try {
      channel.send(message);
    } catch (const Error&) {
      channel.close();  // the one that asks sees the end, and tells the driver
    }
    --sending;
  }

  Channel channel;
  /// Threads that are at it.
  std::atomic<int> sending{0};
  ExecutorId from = 0;
  std::mutex mutex;
  /// Answers for which nobody waits, and who sends them; null until there are any.
  std::deque<std::string> answers;
  std::unique_ptr<Condition> has_answers;
  bool is_closed = false;
};

PeerConnections::PeerConnections(Runtime& runtime, Transport& transport, std::string token, Answer answer)
    : runtime_(runtime),
      transport_(transport),
      token_(std::move(token)),
      answer_(std::move(answer)),
      changed_(runtime.condition()),
      threads_(runtime) {}

PeerConnections::~PeerConnections() { stop(); }

Address PeerConnections::listen(const Address& address) {
  listener_ = transport_.listen(address);
  return listener_->address();
}

void PeerConnections::start(ExecutorId own) {
  const std::lock_guard lock(mutex_);
  own_ = own;
  threads_.spawn("accept", [this] { accept(); });
}

void PeerConnections::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_->notify_all();
  if (listener_ != nullptr) listener_->close();
  for (const auto& served : served_) served->channel.close();
  for (const auto& [id, link] : links_) {
    if (link->channel != nullptr) link->channel->close();
  }
}

void PeerConnections::stop() {
  close();
  threads_.join();
}

void PeerConnections::change_peers(Peers changes) {
  const std::lock_guard lock(mutex_);
  for (Peers::Peer& peer : changes.come) peers_[peer.id] = std::move(peer.address);
  for (const ExecutorId id : changes.gone) peers_.erase(id);
  changed_->notify_all();
  for (const auto& [id, link] : links_) {
    if (!peers_.contains(id) && link->channel != nullptr) link->channel->close();
  }
  for (const auto& served : served_) {
    if (served->from != 0 && !peers_.contains(served->from)) served->channel.close();
  }
}

std::vector<ExecutorId> PeerConnections::others() {
  const std::lock_guard lock(mutex_);
  std::vector<ExecutorId> here;
  std::vector<ExecutorId> elsewhere;
  const auto own = peers_.find(own_);
  for (const auto& [id, address] : peers_) {
    if (id == own_) continue;
    const bool is_elsewhere = own != peers_.end() && host_of(address) != host_of(own->second);
    (is_elsewhere ? elsewhere : here).push_back(id);
  }
  return elsewhere.empty() ? here : elsewhere;
}

bool PeerConnections::has(ExecutorId id) {
  const std::lock_guard lock(mutex_);
  return peers_.contains(id);
}

void PeerConnections::give_up_asked_before(Time time) {
  std::vector<LinkPtr> links;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, link] : links_) links.push_back(link);
  }
  for (const LinkPtr& link : links) {
    const std::lock_guard lock(link->mutex);
    // Questions are numbered in the order of asking.
    if (!link->waiting.empty() && link->waiting.begin()->second.asked < time) link->channel->close();
  }
}

// ---- Asking

std::uint64_t PeerConnections::next_request() {
  const std::lock_guard lock(mutex_);
  return ++last_request_;
}

void PeerConnections::ask(ExecutorId id, std::uint64_t request, std::string_view message, Answered answered) {
  LinkPtr link;
  try {
    link = link_to(id);
  } catch (const Error&) {
    return answered(std::nullopt);
  }
  {
    std::unique_lock lock(link->mutex);
    if (link->is_broken) {
      lock.unlock();
      return answered(std::nullopt);
    }
    link->waiting.emplace(request, Link::Question{runtime_.clock().now(), std::move(answered)});
  }
  try {
    link->channel->send(message);
  } catch (const Error&) {
    link->channel->close();  // who reads answers tells all that wait
  }
}

PeerConnections::LinkPtr PeerConnections::link_to(ExecutorId id) {
  LinkPtr link;
  std::string address;
  bool is_new = false;
  {
    const std::lock_guard lock(mutex_);
    const auto peer = peers_.find(id);
    if (closed_ || peer == peers_.end()) throw not_reached(id, "it is gone");
    address = peer->second;
    auto& known = links_[id];
    is_new = known == nullptr;
    if (is_new) known = std::make_shared<Link>(runtime_, id);
    link = known;
  }
  if (is_new) {
    connect(link, address);
  } else {
    std::unique_lock lock(link->mutex);
    while (link->is_connecting) link->connected->wait(lock);
    if (link->is_broken) throw not_reached(id, "it is lost");
  }
  return link;
}

void PeerConnections::connect(const LinkPtr& link, const std::string& address) {
  const auto connected = [&](bool is_broken) {
    const std::lock_guard lock(link->mutex);
    link->is_connecting = false;
    link->is_broken = is_broken;
    link->connected->notify_all();
  };
  try {
    const Time deadline = runtime_.clock().now() + handshake_time_max;
    auto connected_to = std::make_unique<Channel>(runtime_, transport_.connect(Address{address}, deadline));
    Channel& channel = *connected_to;
    {
      const std::lock_guard lock(mutex_);
      link->channel = std::move(connected_to);
      if (closed_ || !peers_.contains(link->to)) channel.close();
    }
    Hello hello;
    hello.token = token_;
    hello.id = own_;
    say_hello(runtime_, channel, std::move(hello));
    threads_.spawn("answers", [this, link] { read_answers(link); });
  } catch (...) {
    connected(true);
    const std::lock_guard lock(mutex_);
    if (const auto known = links_.find(link->to); known != links_.end() && known->second == link) links_.erase(known);
    throw;
  }
  connected(false);
}

void PeerConnections::read_answers(const LinkPtr& link) {
  try {
    while (const auto message = link->channel->receive()) {
      const std::uint64_t request = message_request(*message);
      Answered answered;
      {
        const std::lock_guard lock(link->mutex);
        const auto waiting = link->waiting.extract(request);
        if (!waiting.empty()) answered = std::move(waiting.mapped().answered);
      }
      if (answered) answered(*message);
    }
  } catch (const Error&) {
    link->channel->close();  // as at the end of the connection: all that wait are told
  }
  std::map<std::uint64_t, Link::Question> waiting;
  {
    const std::lock_guard lock(link->mutex);
    link->is_broken = true;
    waiting = std::move(link->waiting);
  }
  {
    const std::lock_guard lock(mutex_);
    if (const auto known = links_.find(link->to); known != links_.end() && known->second == link) links_.erase(known);
  }
  for (auto& [request, question] : waiting) question.answered(std::nullopt);
}

// ---- Answering

void PeerConnections::accept() {
  while (auto connection = listener_->accept(Time::max())) {
    auto served = std::make_shared<Served>(runtime_, std::move(connection));
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    served_.push_back(served);
    threads_.spawn("serve", [this, served] { serve(served); });
  }
}

// It may know of this executor before this one knows of it.
bool PeerConnections::wait_for_peer(ExecutorId id, Served& served) {
  const Time deadline = runtime_.clock().now() + handshake_time_max;
  std::unique_lock lock(mutex_);
  while (!closed_ && !peers_.contains(id)) {
    if (runtime_.clock().now() >= deadline) return false;
    changed_->wait_until(lock, deadline);
  }
  served.from = id;
  return !closed_;
}

void PeerConnections::serve(const std::shared_ptr<Served>& served) {
  Channel& channel = served->channel;
  try {
    if (const std::optional<Hello> hello = hear_hello(runtime_, channel)) {
      Welcome welcome;
      welcome.refusal = refusal_of(*hello, token_);
      if (welcome.refusal.empty() && !wait_for_peer(hello->id, *served)) {
        welcome.refusal = "the driver has not told of it";
      }
      channel.send(encode_message(welcome));
      const Reply reply(*this, served);
      while (welcome.refusal.empty()) {
        const auto message = channel.receive();
        if (!message.has_value()) break;
        answer_(served->from, *message, reply);
      }
    }
  } catch (const Error&) {
    channel.close();  // the one that asks sees the end, and tells the driver
  }
  channel.close();
  {
    const std::lock_guard lock(served->mutex);
    served->is_closed = true;
    if (served->has_answers != nullptr) served->has_answers->notify_all();
  }
  const std::lock_guard lock(mutex_);
  served_.remove(served);
}

void PeerConnections::Reply::send(std::string_view message) const { served_->send(message); }

void PeerConnections::Reply::queue(std::string message) const { connections_.queue(served_, std::move(message)); }

void PeerConnections::Reply::send_or_queue(std::string message) const {
  if (message.size() > small_bytes_max || served_->sending > 0) return queue(std::move(message));
  send(message);
}

void PeerConnections::queue(const std::shared_ptr<Served>& served, std::string message) {
  const std::lock_guard lock(served->mutex);
  if (served->is_closed) return;
  served->answers.push_back(std::move(message));
  if (served->has_answers != nullptr) return served->has_answers->notify_all();
  served->has_answers = runtime_.condition();
  threads_.spawn("answers", [served] {
    std::unique_lock lock(served->mutex);
    while (!served->is_closed) {
      if (served->answers.empty()) {
        served->has_answers->wait(lock);
        continue;
      }
      const std::string answer = std::move(served->answers.front());
      served->answers.pop_front();
      lock.unlock();
      served->send(answer);
      lock.lock();
    }
  });
}

}  // namespace sluice::detail
