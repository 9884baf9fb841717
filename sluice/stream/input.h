// Where a stream's records come from.
//
// Two kinds: ranges of something that can be read again (files), chosen by the driver for each batch; and blocks stored
// by a receiver, which has a thread of its own. Either way the driver asks each input once per batch, in order of time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "sluice/core/engine.h"
#include "sluice/core/sources.h"
#include "sluice/stream/events.h"

namespace sluice::detail {

/// The source of one stream.
class Input {
 public:
  virtual ~Input() = default;
  /// Called once, at start(), on the caller's thread; errors make the start fail and get the stream's name and place.
  virtual void start(Engine&) {}
  /// Stops taking anything in, and returns when nothing more can arrive. Called once.
  virtual void stop() {}
  /// The RDD of batch `time`, perhaps empty. Called once a batch, in order, on the stream's thread.
  virtual NodePtr batch(Engine& engine, const OperatorInfoPtr& info, Time time, InputInfo& told) = 0;
  /// Batch `time` is complete: what it held may go.
  virtual void completed(Time) {}
  /// Something has arrived that no batch has yet.
  virtual bool pending() { return false; }
  /// Nothing will ever arrive again (the end of standard input).
  virtual bool ended() { return false; }
  /// Cores it takes for good.
  virtual std::size_t receivers() const { return 0; }
  /// Receiver events since the last call.
  struct ReceiverEvent {
    enum class Kind { started, error, stopped } kind;
    std::string error;
  };
  virtual std::vector<ReceiverEvent> take_events() { return {}; }
};

/// An RDD of these sources, one partition each; of one empty partition when there is none.
NodePtr make_input_node(const OperatorInfoPtr& info, const TypeOps& type, std::vector<Shipped<Source>> sources,
                        std::size_t partitions_max);

/// Bytes that receivers have stored and no batch has finished with. At the limit `store` waits, so that the receiver
/// stops reading its source: back pressure from the first batch on.
class ReceiverBudget {
 public:
  ReceiverBudget(Runtime& runtime, std::size_t limit_bytes);
  /// Waits until `bytes` fit (one block always fits alone). False when `cancel` was called meanwhile.
  bool acquire(std::size_t bytes);
  /// Takes `bytes` without waiting, for what has been accepted already.
  void take(std::size_t bytes);
  void release(std::size_t bytes);
  void cancel();
  std::size_t used();

 private:
  const std::size_t limit_;
  std::mutex mutex_;
  std::unique_ptr<Condition> freed_;
  std::size_t used_ = 0;
  bool cancelled_ = false;
};

/// A stored block.
struct ReceivedBlock {
  Shipped<Source> source;
  std::size_t bytes = 0;
  std::uint64_t records = 0;
  Time stored{};
};

/// What a receiver and the driver share: the blocks between them, stop and error state. Blocks are given to batches by
/// the time at which they were stored: batch T holds what was stored in (T - interval, T] (BC-02), also when the driver
/// is late.
class ReceiverChannel {
 public:
  ReceiverChannel(Engine& engine, std::shared_ptr<ReceiverBudget> budget, Duration block_interval);
  virtual ~ReceiverChannel() = default;

  // -- for the receiver's thread
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }
  /// Waits; false when stopped meanwhile.
  bool wait_for(Duration duration);
  /// Returns when the block is stored; false when the stream stops first (the block is not taken then).
  bool store_block(Shipped<Source> source, std::size_t bytes, std::uint64_t records);
  /// The same for bytes that were acquired from the budget already; never waits. `stored` never goes back.
  void put_block(Shipped<Source> source, std::size_t bytes, std::uint64_t records, Time stored);
  /// No more will come.
  void end_of_input();
  void report_error(std::string text);

  // -- for the driver
  /// Lets the receiver end what it is doing: waits end, `store` refuses.
  virtual void request_stop();
  std::vector<ReceivedBlock> take_until(Time time);
  bool has_blocks();
  bool at_end() const { return end_of_input_.load(); }
  std::vector<Input::ReceiverEvent> take_events();
  void add_event(Input::ReceiverEvent event);
  ReceiverBudget& budget() { return *budget_; }

  /// Turns what was stored record by record so far into a block. Called by the driver at each batch time and by
  /// `store` at each block interval.
  virtual void seal() {}
  /// The same for batch `time`; may leave out what has come in since. Must not wait for the budget, which only the
  /// caller can free.
  virtual void seal_until(Time) { seal(); }

 protected:
  Engine& engine_;
  const Duration block_interval_;

 private:
  void push(Shipped<Source> source, std::size_t bytes, std::uint64_t records);

  std::shared_ptr<ReceiverBudget> budget_;
  std::mutex mutex_;
  std::unique_ptr<Condition> changed_;
  std::deque<ReceivedBlock> blocks_;
  std::vector<Input::ReceiverEvent> events_;
  std::atomic<bool> stopped_{false};
  std::atomic<bool> end_of_input_{false};
};

/// Runs a receiver's body on a thread of its own, again after `restart_delay` when it returns or throws, until the
/// stream stops or the body has called end_of_input.
class ReceiverInput : public Input {
 public:
  struct Options {
    Duration restart_delay = std::chrono::seconds(2);
    Duration block_interval = std::chrono::milliseconds(200);
  };
  /// `make_channel` is called at start(); `body` runs until `channel.stopped()`.
  using MakeChannel = std::function<std::shared_ptr<ReceiverChannel>(Engine&)>;
  using Body = std::function<void(ReceiverChannel&)>;
  ReceiverInput(std::string name, const TypeOps& type, Options options, std::size_t partitions_max,
                MakeChannel make_channel, Body body);

  void start(Engine& engine) override;
  void stop() override;
  NodePtr batch(Engine& engine, const OperatorInfoPtr& info, Time time, InputInfo& told) override;
  void completed(Time time) override;
  bool pending() override;
  bool ended() override;
  std::size_t receivers() const override { return 1; }
  std::vector<ReceiverEvent> take_events() override;

 private:
  void run(Engine& engine);

  const std::string name_;
  const TypeOps& type_;
  const Options options_;
  const std::size_t partitions_max_;
  const MakeChannel make_channel_;
  const Body body_;
  std::shared_ptr<ReceiverChannel> channel_;
  std::unique_ptr<Thread> thread_;
  std::deque<std::pair<Time, std::size_t>> held_;  // bytes of batches not complete
};

}  // namespace sluice::detail
