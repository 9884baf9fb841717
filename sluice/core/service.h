// What runs on an executor beside tasks, for as long as a stream does: receivers.
//
// A service travels as a ServiceMaker, runs where the TaskRunner places it, talks with the driver in messages of its
// own, and leaves blocks that tasks read. When its executor is lost it is not started again by itself: the driver is
// told and starts another one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "sluice/core/stores.h"
#include "sluice/core/task.h"
#include "sluice/runtime/runtime.h"

namespace sluice::detail {

/// What an executor gives a service. Threads: safe from all threads; nothing here waits.
class ServiceHost {
 public:
  virtual ~ServiceHost() = default;
  virtual Runtime& runtime() = 0;
  /// Where the service runs, for people.
  virtual std::string place() const = 0;
  /// A message for the driver. What is said by `tell` and `keep` arrives in the order of the calls, all of it or a
  /// beginning, and then the driver is told that the service has ended.
  virtual void tell(std::string message) = 0;
  /// Keeps the records as a block: here, and on another executor where there is one and copies are wanted. When they
  /// lie there, the driver gets `message`, together with the block's id.
  virtual void keep(RestedPtr records, std::string message) = 0;
};

/// See the head of this file. Threads: `run` on one of its own, the rest from any.
class Service {
 public:
  virtual ~Service() = default;
  /// Works until `stop` is called, or there is nothing left to do. What it throws is told to the driver.
  virtual void run() = 0;
  /// A message of the driver, one after the other. Must not wait.
  virtual void on_message(std::string_view message) = 0;
  /// Lets `run` return soon, also when it has not been called yet.
  virtual void stop() = 0;
  /// The same, and nobody hears it any more: what it waits for will not come.
  virtual void close() = 0;
};

/// A service as it travels.
class ServiceMaker {
 public:
  virtual ~ServiceMaker() = default;
  virtual std::unique_ptr<Service> make(ServiceHost& host) const = 0;
};

/// What the driver hears of a service, one call after the other; must not wait for anything that a service says.
struct ServiceEvents {
  /// `block`: of `keep`.
  std::function<void(std::string_view message, std::optional<BlockId> block)> message;
  /// It has ended, or its executor is lost: nothing more comes. Empty: it has ended as it should.
  std::function<void(const std::string& why)> ended;
};

/// A service that runs elsewhere. Threads: safe from all threads.
class RunningService {
 public:
  /// Nothing is heard of it from now on. What it has kept and not told of stays on its executor, so wait for its end.
  virtual ~RunningService() = default;
  /// Nothing when it has ended.
  virtual void tell(std::string_view message) = 0;
  virtual void stop() = 0;
};

}  // namespace sluice::detail
