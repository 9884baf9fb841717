// Where a stream's records come from.
//
// Two kinds: ranges of something that can be read again (files), chosen by the driver for each batch; and blocks stored
// by a receiver, which has a thread of its own. Either way the driver asks each input once a batch, in order of time,
// what the batch has: `choose` says it in bytes, which the journal keeps before anything is made of them; `rdd` makes
// the batch's RDD of those bytes, in this process or in one that has been started again.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "sluice/core/engine.h"
#include "sluice/core/sources.h"
#include "sluice/stream/events.h"
#include "sluice/stream/journal.h"

namespace sluice::detail {

/// Where the blocks of a receiver are recorded before they count as stored; given to inputs by a driver that has a
/// checkpoint directory. Threads: safe from all threads; `record` never waits.
class BlockRecorder {
 public:
  virtual ~BlockRecorder() = default;
  /// Records a block of this input. `bytes`: of which ReceiverChannel::logged_source
  /// makes the block again.
  /// Returns a place for `wait_durable`.
  virtual std::uint64_t record(const RecordedBlock& block, const MemoryBlock& bytes) = 0;
  /// Returns when all up to that place is durable. Errors: SLU-401, SLU-209.
  virtual void wait_durable(std::uint64_t place) = 0;
};

/// What an input is told when the stream starts.
struct InputStart {
  /// Blocks are recorded there; nullptr: they are kept in memory alone.
  std::shared_ptr<BlockRecorder> recorder;
  /// The directory of the write-ahead log that recorded blocks lie in.
  std::string wal_directory;
  /// Blocks of earlier runs that batches recorded so far name, or that no batch has yet, by number.
  std::map<std::uint64_t, RecordedBlock> blocks;
  /// Those of them that no batch has yet.
  std::vector<std::uint64_t> unallocated;
  /// Blocks of this run get larger numbers than this.
  std::uint64_t number_before = 0;
  /// What the receiver said last of its source's position.
  std::string position;
  /// What is chosen is kept in a checkpoint directory.
  bool is_kept = false;
  /// The stream goes on where an earlier run has stopped: `load` has been called.
  bool resumes = false;
};

/// The source of one stream. Threads: `start` on the caller's thread of start(), all else on the stream's.
class Input {
 public:
  virtual ~Input() = default;
  /// What tells it from other inputs of its kind: an address, a path. Empty: the kind alone.
  virtual std::string argument() const { return {}; }
  /// False: what a batch has is gone with the process.
  virtual bool can_be_read_again() const { return true; }

  /// Called once, at start(); errors make the start fail and get the stream's name and place.
  virtual void start(Engine&, InputStart) {}  // NOLINT(performance-unnecessary-value-param): others keep it
  /// Instead of `start` for a replay: only `rdd` is called then.
  virtual void start_replay(Engine&, InputStart) {}  // NOLINT(performance-unnecessary-value-param)
  /// Stops taking anything in, and returns when nothing more can arrive. Called again it does nothing.
  virtual void stop() {}

  /// What batch `time` has, perhaps nothing. Called once a batch, in order.
  virtual std::string choose(Engine& engine, Time time, InputInfo& told) = 0;
  /// Numbers of the receiver's blocks that the last choice named.
  virtual std::vector<std::uint64_t> chosen_blocks() { return {}; }
  /// The RDD of a choice, perhaps empty; an empty choice is one of nothing. `told` may get what could not be read
  /// again.
  virtual NodePtr rdd(Engine& engine, const OperatorInfoPtr& info, std::string_view choice, InputInfo& told) = 0;
  /// Batch `time` is complete: what it held may go.
  virtual void completed(Time) {}

  /// Where it stands after the last choice, for a checkpoint; `load` takes it up before start(), and `redo` steps over
  /// a choice that was made after it.
  virtual void save(Encoder&) {}
  virtual void load(Decoder&) {}
  virtual void redo(std::string_view) {}

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
  std::uint64_t number = 0;
  Shipped<Source> source;
  std::size_t bytes = 0;
  std::uint64_t records = 0;
  Time stored{};
};

/// What a receiver hands over: how tasks read the block now, and its bytes for the write-ahead log, which are asked for
/// only where there is one.
struct NewBlock {
  Shipped<Source> source;
  std::size_t bytes = 0;
  std::uint64_t records = 0;
  std::function<MemoryBlock()> logged;
  /// What the source's position is behind it; empty: as before.
  std::string position{};
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
  /// Returns when the block is stored, durably where there is a write-ahead log; false when the stream stops first (the
  /// block is not taken then).
  bool store_block(NewBlock block);
  /// The same for bytes that were acquired from the budget already; never waits, also not for the disk. `stored` never
  /// goes back.
  void put_block(NewBlock block, Time stored);
  /// What was said last of the source's position, in an earlier run or this one.
  std::string position();
  /// No more will come.
  void end_of_input();
  void report_error(std::string text);

  // -- for the driver
  /// Lets the receiver end what it is doing: waits end, `store` refuses.
  virtual void request_stop();
  std::vector<ReceivedBlock> take_until(Time time);
  bool has_blocks();
  bool at_end() const { return end_of_input_.load(); }
  /// Blocks are recorded there, with numbers after `number_before`.
  void record_with(std::shared_ptr<BlockRecorder> recorder, std::uint64_t number_before, std::string position);
  /// Makes the source of a block of the write-ahead log.
  virtual Shipped<Source> logged_source(const std::string& wal_directory, const LogHandle& handle) const = 0;
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
  std::uint64_t put(NewBlock block, Time stored);

  std::shared_ptr<ReceiverBudget> budget_;
  std::mutex mutex_;
  std::unique_ptr<Condition> changed_;
  std::shared_ptr<BlockRecorder> recorder_;
  std::uint64_t last_number_ = 0;
  std::string position_;
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
  ReceiverInput(std::string argument, const TypeOps& type, Options options, std::size_t partitions_max,
                MakeChannel make_channel, Body body);

  std::string argument() const override { return argument_; }
  bool can_be_read_again() const override { return recorded_; }
  void start(Engine& engine, InputStart start) override;
  void start_replay(Engine& engine, InputStart start) override;
  void stop() override;
  std::string choose(Engine& engine, Time time, InputInfo& told) override;
  std::vector<std::uint64_t> chosen_blocks() override { return chosen_; }
  NodePtr rdd(Engine& engine, const OperatorInfoPtr& info, std::string_view choice, InputInfo& told) override;
  void completed(Time time) override;
  bool pending() override;
  bool ended() override;
  std::size_t receivers() const override { return 1; }
  std::vector<ReceiverEvent> take_events() override;

 private:
  void run(Engine& engine);

  const std::string argument_;
  const TypeOps& type_;
  const Options options_;
  const std::size_t partitions_max_;
  const MakeChannel make_channel_;
  const Body body_;
  std::shared_ptr<ReceiverChannel> channel_;
  std::unique_ptr<Thread> thread_;
  bool recorded_ = false;
  InputStart earlier_;
  std::vector<std::uint64_t> chosen_;
  /// Blocks of this run that a batch has chosen, until its RDD is made.
  std::map<std::uint64_t, Shipped<Source>> at_hand_;
  std::deque<std::pair<Time, std::size_t>> held_;  // bytes of batches not complete
};

}  // namespace sluice::detail
