// Blocks on their way from a receiver to the batches that they go to.
//
// A receiver has a BlockTaker. In the driver's process that is ReceivedBlocks itself; on an executor it is one that
// keeps the block there and lets the driver's ReceivedBlocks know (remote_receiver.h).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "sluice/core/engine.h"
#include "sluice/core/sources.h"
#include "sluice/stream/input.h"

namespace sluice::detail {

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
  std::size_t limit() const { return limit_; }

 private:
  const std::size_t limit_;
  std::mutex mutex_;
  std::unique_ptr<Condition> freed_;
  std::size_t used_ = 0;
  bool cancelled_ = false;
};

/// What a receiver hands over.
struct NewBlock {
  /// How tasks of this process read it. Its records, as those of `rested`, are of the program's `type` (receiver.h).
  Shipped<Source> source;
  std::size_t bytes = 0;
  std::uint64_t records = 0;
  /// Its records, for another process; asked for only where it goes to one.
  std::function<RestedPtr()> rested;
  /// Its bytes for the write-ahead log, asked for only where there is one.
  std::function<MemoryBlock()> logged;
  /// What the source's position is behind it; empty: as before.
  std::string position{};
};

/// Where a receiver's blocks go. Threads: safe from all threads.
class BlockTaker {
 public:
  virtual ~BlockTaker() = default;
  /// Takes the block, stored at that time, which must not go back. Waits for nothing. Returns a place for
  /// `wait_stored`.
  virtual std::uint64_t put(NewBlock block, Time stored) = 0;
  /// Returns when all blocks up to that place are stored, durably where there is a write-ahead log, and on a second
  /// executor where there is one. False when the stream ends before: then nobody knows. Errors: SLU-401, SLU-209.
  virtual bool wait_stored(std::uint64_t place) = 0;
  /// What was said last of the source's position, in an earlier run or this one.
  virtual std::string position() = 0;
  virtual void add_event(Input::ReceiverEvent event) = 0;
  /// Nothing more will come from the source.
  virtual void end_of_input() = 0;
};

/// A stored block: it is read by `source`, or lies on executors, under `lease`.
struct ReceivedBlock {
  std::uint64_t number = 0;
  Shipped<Source> source;
  std::shared_ptr<BlockLease> lease;
  /// Where it lies in the write-ahead log, if there is one.
  std::optional<LogHandle> handle;
  std::size_t bytes = 0;
  std::uint64_t records = 0;
  Time stored{};
  /// Which of the receivers that ran one after the other for this input it is of, where that matters to them.
  std::uint64_t origin = 0;
};

/// The blocks of one receiver that no batch has yet, in the driver. They are given to batches by the time at which they
/// were stored: batch T holds what was stored in (T - interval, T] (BC-02), also when the driver is late.
class ReceivedBlocks : public BlockTaker {
 public:
  /// Blocks are recorded there, with numbers after `number_before`; null: in memory alone.
  ReceivedBlocks(std::shared_ptr<BlockRecorder> recorder, std::uint64_t number_before, std::string position);

  std::uint64_t put(NewBlock block, Time stored) override;
  /// The same for a block on executors. `logged`: empty where there is no write-ahead log.
  std::uint64_t put_elsewhere(ReceivedBlock block, const MemoryBlock& logged, std::string position);
  bool wait_stored(std::uint64_t place) override;
  std::string position() override;
  void add_event(Input::ReceiverEvent event) override;
  void end_of_input() override { at_end_ = true; }

  bool are_recorded() const { return recorder_ != nullptr; }
  std::vector<ReceivedBlock> take_until(Time time);
  bool has_blocks();
  bool at_end() const { return at_end_.load(); }
  std::vector<Input::ReceiverEvent> take_events();

 private:
  std::uint64_t add(ReceivedBlock block, const std::function<MemoryBlock()>& logged, std::string position);

  const std::shared_ptr<BlockRecorder> recorder_;
  std::mutex mutex_;
  std::uint64_t last_number_ = 0;
  std::string position_;
  std::deque<ReceivedBlock> blocks_;
  std::vector<Input::ReceiverEvent> events_;
  std::atomic<bool> at_end_{false};
};

}  // namespace sluice::detail
