#include "sluice/testkit/sim_transport.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <deque>
#include <optional>
#include <string_view>
#include <utility>

#include "sluice/runtime/errors.h"

namespace sluice::testing::detail {
namespace {

constexpr std::string_view unix_prefix = "unix:";

[[noreturn]] void fail(std::string_view call, const std::string& address, std::string_view reason) {
  throw Error(Code::network_failed, {.why = std::string(call) + " " + address + ": " + std::string(reason)});
}

[[noreturn]] void refuse_text(const std::string& text) {
  throw Error(Code::bad_argument, {.why = "address \"" + text + "\": neither host:port nor unix:/path"});
}

struct Host {
  std::string name;
  std::string port;
  bool is_loopback = false;
};

Host parse(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) refuse_text(text);
  Host host{text.substr(0, colon), text.substr(colon + 1), false};
  unsigned port = 0;
  const char* const end = host.port.data() + host.port.size();
  const auto [stopped, error] = std::from_chars(host.port.data(), end, port);
  if (error != std::errc() || stopped != end || port > 65'535) refuse_text(text);
  if (host.name == "localhost") host.name = "127.0.0.1";
  host.is_loopback = host.name.starts_with("127.") || host.name == "[::1]";
  return host;
}

// Network latency of one message.
Duration draw_delay(Scheduler& scheduler) {
  const Duration longest = std::max(scheduler.options().message_delay_max, Duration::zero());
  return Duration(scheduler.random().below(static_cast<std::uint64_t>(longest.count()) + 1));
}

}  // namespace

/// One direction of a connection.
struct SimTransport::Stream {
  struct Piece {
    Time arrives;
    std::string bytes;
  };

  explicit Stream(const std::string& from) : readers("bytes from " + from), writers("room towards " + from) {}

  std::deque<Piece> pieces;
  /// Read already of the first piece.
  std::size_t taken = 0;
  std::size_t unread = 0;
  /// Bytes in flight and unread that stop the writer, as the buffers of sockets do.
  std::size_t capacity = 0;
  Time last_arrival;
  /// The writer has closed, and what it wrote before arrives first.
  bool ended = false;
  WaitList readers;
  WaitList writers;

  void clear() {
    pieces.clear();
    taken = unread = 0;
  }
};

/// Both directions. Side 0 connected, side 1 accepted; `streams[i]` is read by side i.
struct SimTransport::Link {
  Link(const std::string& connector, const std::string& acceptor)
      : names{connector, acceptor}, streams{Stream(acceptor), Stream(connector)} {}

  std::array<std::string, 2> names;
  std::array<Stream, 2> streams;
  std::array<bool, 2> closed{};
  bool reset = false;
  std::uint64_t life = 0;
  /// Of each side.
  std::array<std::uint64_t, 2> processes{};

  void close(Scheduler& scheduler, std::size_t side) {
    if (std::exchange(closed[side], true)) return;
    // TCP resets a connection that is closed with bytes unread: the peer may lose what it was sent before.
    if (streams[side].unread > 0 && scheduler.random().chance(0.5)) reset = true;
    if (reset) return break_off(scheduler);
    streams[side].clear();
    Stream& out = streams[1 - side];
    out.ended = true;
    out.last_arrival = std::max(out.last_arrival, scheduler.now() + draw_delay(scheduler));
    wake(scheduler);
  }
  void wake(Scheduler& scheduler) {
    for (Stream& stream : streams) {
      scheduler.wake_all(stream.readers);
      scheduler.wake_all(stream.writers);
    }
  }
  void break_off(Scheduler& scheduler) {
    reset = true;
    for (Stream& stream : streams) stream.clear();
    wake(scheduler);
  }
};

/// Connections on their way to a listener.
struct SimTransport::Queue {
  struct Arrival {
    Time arrives;
    std::unique_ptr<Connection> connection;
  };

  explicit Queue(const std::string& address) : acceptors("a connection to " + address) {}

  std::deque<Arrival> arrivals;
  bool closed = false;
  std::uint64_t life = 0;
  std::uint64_t process = 0;
  WaitList acceptors;
};

class SimConnection final : public Connection {
 public:
  SimConnection(Scheduler& scheduler, std::shared_ptr<SimTransport::Link> link, std::size_t side)
      : scheduler_(scheduler), link_(std::move(link)), side_(side) {}

  ~SimConnection() override { end(); }

  std::optional<std::size_t> read(std::span<char> into, Time deadline) override {
    // 0 would look like the end of the stream.
    SLUICE_ASSERT(!into.empty());
    begin("read from");
    SimTransport::Stream& stream = link_->streams[side_];
    while (true) {
      check("read from");
      const Time now = scheduler_.now();
      if (!stream.pieces.empty() && stream.pieces.front().arrives <= now) return take(stream, into);
      if (stream.pieces.empty() && stream.ended && stream.last_arrival <= now) return 0;
      if (deadline <= now) return std::nullopt;
      Time next = deadline;
      if (!stream.pieces.empty()) {
        next = std::min(next, stream.pieces.front().arrives);
      } else if (stream.ended) {
        next = std::min(next, stream.last_arrival);
      }
      scheduler_.park(stream.readers, next);
    }
  }

  void write(std::string_view bytes, Time deadline) override {
    begin("write to");
    scheduler_.trace(bytes);
    SimTransport::Stream& stream = link_->streams[1 - side_];
    while (!bytes.empty()) {
      check("write to");
      if (link_->closed[1 - side_]) {
        // The first write after the peer has gone is accepted if the news has not come yet, and its bytes are lost.
        const bool unaware = scheduler_.random().chance(0.5);
        link_->break_off(scheduler_);
        if (unaware) return;
        continue;
      }
      const std::size_t room = stream.capacity - stream.unread;
      if (room == 0) {
        if (!scheduler_.park(stream.writers, deadline) && stream.capacity == stream.unread) {
          check("write to");
          fail("write to", peer(), "the deadline passed");
        }
        continue;
      }
      const std::size_t most = std::min(room, bytes.size());
      const std::size_t size = scheduler_.random().chance(0.5) ? most : 1 + scheduler_.random().below(most);
      push(stream, bytes.substr(0, size));
      bytes.remove_prefix(size);
    }
  }

  void close_with(std::string_view last_words) override {
    SimTransport::Stream& out = link_->streams[1 - side_];
    const bool is_open = link_->life == scheduler_.life() && !link_->closed[side_] && !link_->reset;
    if (is_open && !link_->closed[1 - side_] && !last_words.empty()) push(out, last_words);
    end();
  }

  void close() override { end(); }

  std::string peer() const override { return link_->names[1 - side_]; }

 private:
  // Others may run before each call, and the network may fail at each.
  void begin(const char* call) {
    scheduler_.pause();
    scheduler_.trace(call);
    scheduler_.trace(peer());
    if (link_->life != scheduler_.life() || link_->closed[side_] || link_->reset) return;
    if (scheduler_.random().chance(scheduler_.options().connection_cut)) link_->break_off(scheduler_);
  }

  void check(const char* call) const {
    if (link_->life != scheduler_.life()) fail(call, peer(), "the process that opened it is gone");
    if (link_->closed[side_]) fail(call, peer(), "the connection was closed on this side");
    if (link_->reset) fail(call, peer(), "Connection reset by peer");
  }

  void push(SimTransport::Stream& stream, std::string_view piece) {
    stream.last_arrival = std::max(stream.last_arrival, scheduler_.now() + draw_delay(scheduler_));
    stream.pieces.push_back({stream.last_arrival, std::string(piece)});
    stream.unread += piece.size();
    scheduler_.wake_all(stream.readers);
  }

  // As many bytes as the network likes to hand over now, at least one.
  std::size_t take(SimTransport::Stream& stream, std::span<char> into) {
    std::size_t most = into.size();
    if (scheduler_.random().chance(0.5)) most = 1 + static_cast<std::size_t>(scheduler_.random().below(most));
    std::size_t count = 0;
    while (count < most && !stream.pieces.empty() && stream.pieces.front().arrives <= scheduler_.now()) {
      const std::string& bytes = stream.pieces.front().bytes;
      const std::size_t copied = bytes.copy(into.data() + count, most - count, stream.taken);
      count += copied;
      stream.taken += copied;
      if (stream.taken < bytes.size()) continue;
      stream.pieces.pop_front();
      stream.taken = 0;
    }
    stream.unread -= count;
    scheduler_.trace(count);
    scheduler_.wake_all(stream.writers);
    return count;
  }

  void end() {
    if (link_->life == scheduler_.life()) link_->close(scheduler_, side_);
  }

  Scheduler& scheduler_;
  const std::shared_ptr<SimTransport::Link> link_;
  const std::size_t side_;
};

class SimListener final : public Listener {
 public:
  SimListener(SimTransport& transport, std::shared_ptr<SimTransport::Queue> queue, std::string address)
      : transport_(transport), queue_(std::move(queue)), address_(std::move(address)) {}

  ~SimListener() override { end(); }

  std::unique_ptr<Connection> accept(Time deadline) override {
    Scheduler& scheduler = transport_.scheduler_;
    scheduler.pause();
    while (true) {
      if (queue_->closed || queue_->life != scheduler.life()) return nullptr;
      Time next = deadline;
      if (!queue_->arrivals.empty()) {
        const Time arrives = queue_->arrivals.front().arrives;
        if (arrives <= scheduler.now()) break;
        next = std::min(next, arrives);
      }
      if (deadline <= scheduler.now()) return nullptr;
      scheduler.park(queue_->acceptors, next);
    }
    std::unique_ptr<Connection> connection = std::move(queue_->arrivals.front().connection);
    queue_->arrivals.pop_front();
    scheduler.trace(connection->peer());
    return connection;
  }

  Address address() const override { return {address_}; }
  void close() override { end(); }

 private:
  void end() {
    if (std::exchange(queue_->closed, true)) return;
    queue_->arrivals.clear();
    if (queue_->life == transport_.scheduler_.life()) transport_.scheduler_.wake_all(queue_->acceptors);
  }

  SimTransport& transport_;
  const std::shared_ptr<SimTransport::Queue> queue_;
  const std::string address_;
};

// The queue of the listener at `address`, or nullptr when nobody listens there.
std::shared_ptr<SimTransport::Queue> SimTransport::queue_at(const std::string& address) const {
  const auto at = listening_.find(address);
  if (at == listening_.end()) return nullptr;
  std::shared_ptr<Queue> queue = at->second.lock();
  if (queue && (queue->closed || queue->life != scheduler_.life())) return nullptr;
  return queue;
}

void SimTransport::process_died(std::uint64_t process) {
  for (const auto& [address, listening] : listening_) {
    const std::shared_ptr<Queue> queue = listening.lock();
    if (queue == nullptr || queue->process != process || queue->life != scheduler_.life()) continue;
    queue->closed = true;
    queue->arrivals.clear();
  }
  for (const std::weak_ptr<Link>& each : links_) {
    const std::shared_ptr<Link> link = each.lock();
    if (link == nullptr || link->life != scheduler_.life()) continue;
    for (const std::size_t side : {0U, 1U}) {
      if (link->processes[side] == process) link->close(scheduler_, side);
    }
  }
}

std::string SimTransport::free_port(const std::string& host) {
  while (true) {
    last_port_ = last_port_ == 65'535 ? 49'152 : static_cast<std::uint16_t>(last_port_ + 1);
    std::string address = host + ":" + std::to_string(last_port_);
    if (!queue_at(address)) return address;
  }
}

class SimConnector final : public Connector {
 public:
  SimConnector(SimTransport& transport, const Address& address)
      : transport_(transport), target_(address.text), is_unix_(target_.starts_with(unix_prefix)) {
    if (!is_unix_) host_ = parse(target_);
  }

  std::unique_ptr<Connection> connect(Time deadline) override {
    Scheduler& scheduler = transport_.scheduler_;
    scheduler.pause();
    scheduler.trace(target_);
    std::string source = target_;
    if (!is_unix_) {
      if (!host_.is_loopback) fail("connect to", target_, "Name or service not known");
      target_ = host_.name + ":" + host_.port;
      source = transport_.free_port(host_.name);
    }

    const Time answered = scheduler.now() + draw_delay(scheduler);
    const Time until = std::min(answered, deadline);
    while (!closed_ && scheduler.now() < until) scheduler.park(closing_, until);
    if (closed_) fail("connect to", target_, "given up on this side");
    if (deadline < answered) fail("connect to", target_, "the deadline passed");
    const std::shared_ptr<SimTransport::Queue> queue = transport_.queue_at(target_);
    if (!queue) fail("connect to", target_, "Connection refused");

    const auto link = std::make_shared<SimTransport::Link>(source, target_);
    link->life = scheduler.life();
    link->processes = {scheduler.process(), queue->process};
    std::erase_if(transport_.links_, [](const auto& each) { return each.expired(); });
    transport_.links_.push_back(link);
    for (SimTransport::Stream& stream : link->streams) {
      stream.capacity = std::size_t{4'096} << scheduler.random().below(7);
      stream.last_arrival = scheduler.now();
    }
    auto near_end = std::make_unique<SimConnection>(scheduler, link, 0);
    Time arrives = scheduler.now() + draw_delay(scheduler);
    if (!queue->arrivals.empty()) arrives = std::max(arrives, queue->arrivals.back().arrives);
    queue->arrivals.push_back({arrives, std::make_unique<SimConnection>(scheduler, link, 1)});
    scheduler.wake_all(queue->acceptors);
    return near_end;
  }

  void close() override {
    closed_ = true;
    transport_.scheduler_.wake_all(closing_);
  }

 private:
  SimTransport& transport_;
  std::string target_;
  const bool is_unix_;
  Host host_;
  bool closed_ = false;
  WaitList closing_{"an answer to a connection"};
};

std::unique_ptr<Connector> SimTransport::connector(const Address& address) {
  return std::make_unique<SimConnector>(*this, address);
}

std::unique_ptr<Listener> SimTransport::listen(const Address& address) {
  std::string name = address.text;
  if (!name.starts_with(unix_prefix)) {
    const Host host = parse(name);
    if (!host.is_loopback) {
      throw Error(Code::not_listening_address, {.why = name + " is not a loopback address"});
    }
    name = host.port == "0" ? free_port(host.name) : host.name + ":" + host.port;
  }
  scheduler_.trace(name);
  if (queue_at(name)) fail("listen on", name, "Address already in use");
  const auto queue = std::make_shared<Queue>(name);
  queue->life = scheduler_.life();
  queue->process = scheduler_.process();
  listening_[name] = queue;
  return std::make_unique<SimListener>(*this, queue, name);
}

}  // namespace sluice::testing::detail
