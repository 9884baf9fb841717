// Receivers: how they travel, and what they and the driver share while they run.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "sluice/core/sources.h"
#include "sluice/runtime/runtime.h"
#include "sluice/stream/received_blocks.h"

namespace sluice::detail {

/// Where a receiver runs. All outlive its channel.
struct ReceiverPlace {
  Runtime& runtime;
  BlockTaker& blocks;
  ReceiverBudget& budget;
  /// For people.
  std::string name;
};

/// What a running receiver has: a place for its blocks, and stop and error state.
class ReceiverChannel {
 public:
  ReceiverChannel(const ReceiverPlace& place, Duration block_interval);
  virtual ~ReceiverChannel() = default;

  // -- for the receiver's thread
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }
  /// Waits; false when stopped meanwhile.
  bool wait_for(Duration duration);
  /// Returns when the block is stored (BlockTaker::wait_stored); false when the stream stops first: the block is not
  /// taken then, or nobody knows.
  bool store_block(NewBlock block);
  /// The same for bytes that were acquired from the budget already; never waits, also not for the disk. `stored` never
  /// goes back.
  void put_block(NewBlock block, Time stored) { blocks_.put(std::move(block), stored); }
  /// What was said last of the source's position, in an earlier run or this one.
  std::string position() { return blocks_.position(); }
  /// No more will come.
  void end_of_input();
  bool at_end() const { return at_end_.load(); }
  void report_error(std::string text);
  void add_event(Input::ReceiverEvent::Kind kind, std::string error = {});
  Runtime& runtime() { return runtime_; }

  // -- for who runs it
  /// Lets the receiver end what it is doing: waits end, `store` refuses.
  virtual void request_stop();
  /// Turns what was stored record by record so far into a block. Called at each batch time, and by `store` at each
  /// block interval.
  virtual void seal() {}
  /// The same for batch `time`; may leave out what has come in since. Must not wait for the budget, which only the
  /// caller can free.
  virtual void seal_until(Time) { seal(); }

 protected:
  ReceiverBudget& budget() { return budget_; }

  Runtime& runtime_;
  const Duration block_interval_;

 private:
  BlockTaker& blocks_;
  ReceiverBudget& budget_;
  const std::string place_;
  std::mutex mutex_;
  std::unique_ptr<Condition> changed_;
  std::atomic<bool> stopped_{false};
  std::atomic<bool> at_end_{false};
};

/// A receiver as it travels to where it runs, and what its blocks are.
class ReceiverProgram {
 public:
  using Body = std::function<void(ReceiverChannel&)>;
  virtual ~ReceiverProgram() = default;

  virtual std::shared_ptr<ReceiverChannel> make_channel(const ReceiverPlace& place) const = 0;
  /// Connects and receives until `stopped()`, or until it cannot go on. It is called again and again.
  virtual Body make_body() const = 0;

  /// The type of a block's records.
  virtual const TypeOps& block_type() const = 0;
  /// Reads those of a block of the write-ahead log.
  virtual Shipped<Source> logged_source(const std::string& wal_directory, const LogHandle& handle) const = 0;
  /// What tasks make of them: the stream's records. Null: nothing.
  virtual Shipped<Kernel> kernel() const { return {}; }
};

/// Runs the body, again after `restart_delay` when it returns or throws, until the channel is stopped or the body has
/// called end_of_input.
void run_receiver(ReceiverChannel& channel, const ReceiverProgram::Body& body, Duration restart_delay);

}  // namespace sluice::detail
