// The services that run on an executor (core/service.h).
//
// A service's messages and blocks go through a queue of its own, in the order in which it said them. A block stands in
// it until another executor has it, too; the next one may be on its way meanwhile.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/cluster/messages.h"
#include "sluice/cluster/peer_connections.h"
#include "sluice/cluster/threads.h"
#include "sluice/core/service.h"
#include "sluice/core/stores.h"

namespace sluice::detail {

/// See the head of this file. Threads: safe from all threads.
class ServiceKeeper {
 public:
  struct Options {
    /// May wait; what cannot be told is lost with the connection.
    std::function<void(std::string_view)> tell_driver;
    /// Runs it on a core of the executor, which has so many.
    std::function<void(std::function<void()>)> launch;
    std::uint32_t cores = 1;
    std::function<std::string()> place;
  };
  ServiceKeeper(Runtime& runtime, BlockStore& blocks, PeerConnections& peers, Options options);
  ~ServiceKeeper();
  ServiceKeeper(const ServiceKeeper&) = delete;
  ServiceKeeper& operator=(const ServiceKeeper&) = delete;

  // -- messages of the driver; none of them waits
  void start(StartService&& message);
  void stop(const StopService& message);
  void pass_on(const ServiceMessage& message);

  /// Stops all of them without waiting; nothing more is told.
  void close();
  /// Waits for what it has not launched.
  void join() { threads_.join(); }

 private:
  class Running;
  using RunningPtr = std::shared_ptr<Running>;
  RunningPtr find(std::uint64_t id);

  Runtime& runtime_;
  BlockStore& blocks_;
  PeerConnections& peers_;
  const Options options_;
  std::mutex mutex_;
  bool closed_ = false;
  std::map<std::uint64_t, RunningPtr> running_;
  Threads threads_;
};

}  // namespace sluice::detail
