// Executors among themselves: each asks and answers the others.
//
// A connection is made by who asks, when it first does, and carries questions one way and answers the other. So who
// reads questions may wait until its answer is taken, because who reads answers never waits for anybody but the driver.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/cluster/channel.h"
#include "sluice/cluster/messages.h"
#include "sluice/cluster/threads.h"
#include "sluice/runtime/runtime.h"

namespace sluice::detail {

/// See the head of this file. Threads: safe from all threads.
class PeerConnections {
 private:
  struct Served;

 public:
  /// Takes the answer to a question, once.
  class Reply;
  /// A question of that executor, on a thread of the connection.
  using Answer = std::function<void(ExecutorId from, std::string_view message, const Reply& reply)>;
  PeerConnections(Runtime& runtime, Transport& transport, std::string token, Answer answer);
  ~PeerConnections();
  PeerConnections(const PeerConnections&) = delete;
  PeerConnections& operator=(const PeerConnections&) = delete;

  /// Where the others reach this one. Errors: those of Transport::listen.
  Address listen(const Address& address);
  /// From now on others are answered.
  void start(ExecutorId own);
  /// Connections to those that are gone are given up.
  void change_peers(Peers changes);

  /// Those that can be asked, in the order of their ids: of other hosts, if there are any.
  std::vector<ExecutorId> others();
  bool has(ExecutorId id);

  /// Gets the answer, or nullopt when the connection ends before; on any thread, or before `ask` returns. Must not
  /// throw or wait.
  using Answered = std::function<void(std::optional<std::string_view>)>;
  /// `message` has a field `request`, which is set here.
  template <class M>
  void ask(ExecutorId id, M message, Answered answered) {
    message.request = next_request();
    ask(id, message.request, encode_message(message), std::move(answered));
  }
  /// Those that owe an answer to a question of before that time are given up: as if the connection had ended.
  void give_up_asked_before(Time time);
  /// Ends all of it: who waits for an answer gets none. Returns when no thread of it runs.
  void stop();
  /// The same without waiting.
  void close();

 private:
  struct Link;
  using LinkPtr = std::shared_ptr<Link>;

  std::uint64_t next_request();
  void ask(ExecutorId id, std::uint64_t request, std::string_view message, Answered answered);
  LinkPtr link_to(ExecutorId id);
  void connect(const LinkPtr& link, const std::string& address);
  void read_answers(const LinkPtr& link);
  void accept();
  bool wait_for_peer(ExecutorId id, Served& served);
  void serve(const std::shared_ptr<Served>& served);
  void queue(const std::shared_ptr<Served>& served, std::string message);

  Runtime& runtime_;
  Transport& transport_;
  const std::string token_;
  const Answer answer_;
  std::unique_ptr<Listener> listener_;
  ExecutorId own_ = 0;
  std::mutex mutex_;
  std::unique_ptr<Condition> changed_;
  bool closed_ = false;
  std::map<ExecutorId, std::string> peers_;
  std::map<ExecutorId, LinkPtr> links_;
  std::list<std::shared_ptr<Served>> served_;
  std::uint64_t last_request_ = 0;
  Threads threads_;
};

class PeerConnections::Reply {
 public:
  Reply(PeerConnections& connections, std::shared_ptr<Served> served)
      : connections_(connections), served_(std::move(served)) {}
  /// At any time, on any thread. Waits until the other one takes it.
  void send(std::string_view message) const;
  /// The same without waiting: another thread sends it.
  void queue(std::string message) const;
  /// `send` where that hardly waits: what is small, while nothing else is being sent. Else `queue`.
  void send_or_queue(std::string message) const;

 private:
  PeerConnections& connections_;
  const std::shared_ptr<Served> served_;
};

}  // namespace sluice::detail
