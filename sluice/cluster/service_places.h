// The services that a driver has started on executors (core/service.h): where they are, and who hears of them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "sluice/cluster/members.h"
#include "sluice/cluster/messages.h"
#include "sluice/core/service.h"

namespace sluice::detail {

/// See the head of this file. Threads: safe from all threads.
class ServicePlaces {
 public:
  struct Options {
    /// How long is waited for an executor where there is none.
    Duration wait_max{};
    /// Blocks of services are kept twice.
    bool copies = true;
    /// A block lies on an executor, and on another one, or 0.
    std::function<void(const BlockId&, ExecutorId executor, ExecutorId copy)> on_block;
    /// Blocks from the first to the last lie somewhere, perhaps, and nobody will ever be told of them.
    std::function<void(const BlockId& first, const BlockId& last)> on_left_over;
  };
  ServicePlaces(Members& members, Options options);

  /// See TaskRunner::start_service. `id`: no other service has it.
  std::unique_ptr<RunningService> start(std::uint64_t id, const Shipped<ServiceMaker>& maker,
                                        const std::string& preferred_host, ServiceEvents events);

  // -- from the executor
  void on_message(ExecutorId executor, const ServiceMessage& message);
  void on_ended(ExecutorId executor, const ServiceEnded& message);
  bool has(ExecutorId executor) { return count(executor) > 0; }
  std::size_t count(ExecutorId executor) { return on(executor).size(); }
  /// It leaves: its services are stopped, and whoever has started them starts others. True when it has none.
  bool move_away(ExecutorId executor);
  /// All its services have ended.
  void lost(ExecutorId executor);

 private:
  struct Entry {
    std::uint64_t id = 0;
    ExecutorId executor = 0;
    /// Held while an event is told, so that none is told to who is gone.
    std::mutex mutex;
    ServiceEvents events;
    bool is_over = false;
    std::uint32_t last_block = 0;
  };
  using EntryPtr = std::shared_ptr<Entry>;
  class Handle;

  ExecutorId choose(const std::string& preferred_host);
  std::vector<EntryPtr> on(ExecutorId executor);
  EntryPtr find(std::uint64_t id, ExecutorId executor);
  EntryPtr take(std::uint64_t id);
  void end(const EntryPtr& entry, const std::string& why);

  Members& members_;
  const Options options_;
  std::mutex mutex_;
  std::map<std::uint64_t, EntryPtr> entries_;
};

}  // namespace sluice::detail
