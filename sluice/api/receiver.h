// Receivers: how a program brings its own source into a stream.
//
//     struct Ticks : sluice::Receiver<long> {
//       void run(sluice::ReceiverContext<long>& context) override {
//         for (long n = 0; context.wait_for(10ms); ++n) context.store(n);
//       }
//     };
//     auto ticks = ssc.receiver_stream<long>([] { return std::make_unique<Ticks>(); });
//
// A receiver takes a core for as long as the stream runs. What it stores becomes blocks; a batch has the blocks that
// were complete at its time. When unprocessed blocks reach the stream's byte budget, `store` waits, so that a receiver
// stops reading its source (rows RC, BK of the specification; Spark's onStart/onStop are one blocking `run` here).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sluice/core/engine.h"
#include "sluice/core/sources.h"
#include "sluice/stream/input.h"

namespace sluice {

/// What a receiver may do. Threads: all members may be called from any thread until `run` has returned.
template <class T>
class ReceiverContext : public detail::ReceiverChannel {
 public:
  /// True when the stream stops: return from `run` soon.
  using ReceiverChannel::stopped;
  /// Waits; false when the stream stops meanwhile.
  using ReceiverChannel::wait_for;
  /// Tells listeners of an error; the receiver runs on (RC-06).
  using ReceiverChannel::report_error;
  /// Nothing more will come: `run` is not called again.
  using ReceiverChannel::end_of_input;

  /// Adds one record to the current block and returns before it is safe (an unreliable receiver, RC-02). Waits while
  /// the byte budget is used up. False when the stream stops; the record is not taken then.
  bool store(const T& record) {
    if (stopped()) return false;
    const Time now = engine_.runtime().clock().now();
    if (const Open full = take_open(now); full.records != nullptr && !add_waiting(full)) return false;
    const std::lock_guard lock(mutex_);
    if (open_.records == nullptr) {
      open_.records = std::make_shared<detail::RestedRecords>(type_ops<T>());
      open_.until = now + block_interval_;
    }
    open_.records->append(&record, 1);
    open_.last = now;
    return true;
  }

  /// Stores the records as one block; returns when it is stored, so that the source may be told (a reliable receiver,
  /// RC-03). Waits while the byte budget is used up. False when the stream stops; nothing is taken then.
  bool store(std::span<const T> records) {
    if (records.empty()) return !stopped();
    seal();  // records come in the order of storing
    auto block = std::make_shared<detail::RestedRecords>(type_ops<T>());
    block->append(records.data(), records.size());
    return this->store_block(source_of(block), block->bytes(), block->count());
  }
  bool store(const std::vector<T>& records) { return store(std::span<const T>(records)); }

  /// Stores text lines that lie in memory, without copying them; `block.owner` keeps them alive. As `store` of many.
  bool store_text(detail::MemoryBlock block)
    requires std::is_same_v<T, std::string_view>
  {
    const std::size_t bytes = block.bytes.size();
    seal();
    return this->store_block(detail::ship<detail::Source, detail::MemoryTextSource>(info_, std::move(block)), bytes, 0);
  }

  // ---- For the engine

  ReceiverContext(detail::Engine& engine, std::shared_ptr<detail::ReceiverBudget> budget, Duration block_interval,
                  Duration batch_interval)
      : ReceiverChannel(engine, std::move(budget), block_interval), batch_interval_(batch_interval) {}
  void seal() override { seal_until(Time::max()); }
  void seal_until(Time time) override {
    // The mutex is held until the block is stored. Between the two nobody would know of it: a driver that asks at this
    // moment would give the batch without it, or take a stream that has ended for one of which all is processed.
    const std::lock_guard lock(mutex_);
    if (open_.records == nullptr || open_.last > time) return;
    const Open full = std::exchange(open_, {});
    this->budget().take(full.records->bytes());
    add(full);
  }

 private:
  static constexpr std::size_t block_bytes = 4 << 20;

  /// Records not yet in a block. All belong to one batch, whenever the driver comes for it.
  struct Open {
    std::shared_ptr<detail::RestedRecords> records;
    Time until{};
    Time last{};
  };

  /// The open records, if they are to be a block before one of time `now` is added.
  Open take_open(Time now) {
    const std::lock_guard lock(mutex_);
    if (open_.records == nullptr) return {};
    if (now < open_.until && open_.records->bytes() < block_bytes && batch_of(now) == batch_of(open_.last)) return {};
    return std::exchange(open_, {});
  }
  /// Its records were accepted before, so they are kept even when the stream stops and this returns false.
  bool add_waiting(const Open& full) {
    const std::size_t bytes = full.records->bytes();
    const bool room = this->budget().acquire(bytes);
    if (!room) this->budget().take(bytes);
    add(full);
    return room;
  }
  void add(const Open& full) {
    this->put_block(source_of(full.records), full.records->bytes(), full.records->count(), full.last);
  }
  /// Number of the batch that time belongs to: batch T has (T - interval, T].
  std::int64_t batch_of(Time time) const { return (time.time_since_epoch() - Duration(1)) / batch_interval_; }

  detail::Shipped<detail::Source> source_of(std::shared_ptr<const detail::RestedRecords> records) const {
    return detail::ship<detail::Source, detail::RestedSource>(info_, detail::RestedPtr(std::move(records)));
  }

  const Duration batch_interval_;
  const detail::OperatorInfo info_{"receiver", {}};
  std::mutex mutex_;
  Open open_;
};

/// A source of records; see the head of this file.
template <class T>
class Receiver {
 public:
  virtual ~Receiver() = default;
  /// Runs on a thread of its own until the stream stops. When it returns or throws earlier, it is called again after
  /// the restart delay, unless it said end_of_input.
  virtual void run(ReceiverContext<T>& context) = 0;
};

/// Settings of a receiver.
struct ReceiverOptions {
  /// Pause before `run` is called again (RC-07).
  Duration restart_delay = std::chrono::seconds(2);
};

}  // namespace sluice
