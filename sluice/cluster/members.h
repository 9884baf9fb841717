// The executors of a driver: who registers, who is alive, what is said to them.
//
// Invariants:
//  M1. An executor is alive while its connection is: what came over another one is not listened to. It is given up
//      when nothing has been heard of it for `timeout`.
//  M2. Nothing is said to an executor before its welcome, and no task is given to one that others have not been told
//      of (`ready`).
//  M3. `on_lost` is called once for each that has been ready or not, after it is no longer alive, and before anything
//      that waited for it goes on.
//  M4. What is done because an executor is lost comes after the others have been told: what it has sent them and they
//      have not looked at is not looked at any more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/cluster/channel.h"
#include "sluice/cluster/log_lines.h"
#include "sluice/cluster/messages.h"
#include "sluice/cluster/threads.h"
#include "sluice/runtime/runtime.h"

namespace sluice::detail {

/// See the head of this file. Threads: safe from all threads. The functions given are called on threads of its own, one
/// for each executor, and must not wait for what an executor says.
class Members {
 public:
  struct Options {
    std::string token;
    /// What each executor is told, but for its id.
    Welcome welcome;
    /// Silence after which an executor is given up.
    Duration timeout{};
    /// One has come, in that process of its host. Called under a lock: must call nothing here.
    std::function<void(ExecutorId, std::int64_t pid)> on_come{};
    std::function<void(ExecutorId, std::string_view message)> on_message;
    std::function<void(ExecutorId)> on_lost;
  };
  Members(Runtime& runtime, std::unique_ptr<Listener> listener, Options options);
  ~Members();
  Members(const Members&) = delete;
  Members& operator=(const Members&) = delete;

  /// What those are told that come from now on.
  void set_application(const std::string& application, std::uint64_t epoch);
  Address address() const { return listener_->address(); }
  /// Those that tasks are given to, in the order in which they came. Not those that leave, unless there are no others.
  std::vector<ExecutorId> ready();
  /// Those that leave, while there are others.
  std::vector<ExecutorId> leaving();
  /// From now on it leaves.
  void leave(ExecutorId id);
  /// It has nothing any more: lets it end.
  void release(ExecutorId id);
  bool is_alive(ExecutorId id);
  /// Of those that are ready.
  std::size_t cores();
  /// Of one; 0 when it is lost.
  std::size_t cores(ExecutorId id);
  /// Where it is; empty where all are on one, or when it is lost.
  std::string host(ExecutorId id);
  /// Whether it is on the machine that calls itself so, or that others reach by this address.
  bool is_on(ExecutorId id, const std::string& host);
  /// False when there were not so many in time.
  bool wait_for(std::size_t count, Duration time_max);
  /// The process of each.
  std::vector<std::int64_t> pids();

  /// Nothing when it is lost; what cannot be sent makes it lost.
  void send(ExecutorId id, std::string_view message);
  void send_all(std::string_view message);
  /// The answer to a request. Errors: SLU-211 it is lost before it answers, or says what is wrong.
  StateReply call(ExecutorId id, StateRequest request);
  /// The answers to several requests, in their order, after one time of the network for all of them. Where there is
  /// none, `error` says so.
  std::vector<StateReply> call_all(std::vector<std::pair<ExecutorId, StateRequest>> requests);
  /// A request whose answer is waited for later, with the errors of `call`, or not at all.
  struct Call;
  std::shared_ptr<Call> ask(ExecutorId id, StateRequest&& request);
  StateReply wait_for(const std::shared_ptr<Call>& call);
  /// It is not listened to any more.
  void give_up(ExecutorId id, const std::string& why);
  /// Lets all of them end. Nothing is told of those that are lost from now on.
  void stop();

 private:
  struct Executor {
    ExecutorId id = 0;
    std::shared_ptr<Channel> channel;
    std::string address;
    std::uint32_t cores = 0;
    std::int64_t pid = 0;
    std::string host;
    Time heard{};
    /// Others have been told of it, and it of them.
    bool is_told = false;
    bool is_ready = false;
    bool is_leaving = false;
    bool is_released = false;
  };
  using ExecutorPtr = std::shared_ptr<Executor>;
  void accept();
  void monitor();
  void serve(const std::shared_ptr<Channel>& channel);
  ExecutorPtr welcome(const std::shared_ptr<Channel>& channel);
  void listen_to(const ExecutorPtr& executor);
  void lost(const ExecutorPtr& executor);
  void show(const Executor& executor, const LogLines& lines);
  void tell_peers(std::uint64_t change);
  void sort();
  static void send_to(const ExecutorPtr& executor, std::string_view message);
  std::vector<ExecutorPtr> all();

  Runtime& runtime_;
  const std::unique_ptr<Listener> listener_;
  const Options options_;
  std::mutex mutex_;
  std::unique_ptr<Condition> changed_;
  bool stopping_ = false;
  /// Of the stream that has begun, for those that come.
  std::string application_;
  std::uint64_t epoch_ = 0;
  ExecutorId last_id_ = 0;
  std::uint64_t last_request_ = 0;
  /// Of who comes and who goes: how many there were, how many of them executors have been told, and whether a thread is
  /// telling them. One at a time does, so all are told in the same order.
  std::uint64_t changes_ = 0;
  std::uint64_t told_ = 0;
  bool is_telling_ = false;
  /// Who is gone and has not been told of.
  std::vector<ExecutorId> gone_;
  std::map<ExecutorId, ExecutorPtr> executors_;
  /// Of them those that are ready: which stay and which leave. Asked for with every task.
  std::vector<ExecutorId> staying_;
  std::vector<ExecutorId> leaving_;
  std::list<std::shared_ptr<Channel>> channels_;
  std::map<std::uint64_t, std::shared_ptr<Call>> calls_;
  LogPrinter printer_;
  std::unique_ptr<Thread> printing_;
  Threads threads_;
};

}  // namespace sluice::detail
