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
#include "sluice/stream/receiver_input.h"

namespace sluice {

namespace detail {
/// Records of a block in the write-ahead log (ReceiverContext::records_for_log).
template <class T>
class LoggedRecordsSource : public Source {
 public:
  LoggedRecordsSource(std::string directory, LogHandle handle) : directory_(std::move(directory)), handle_(handle) {}
  void read(const OpenAt& at, Pipe& out) const override {
    const std::string bytes = read_log_record(at.task.environment().runtime.files(), directory_, handle_);
    Decoder in(bytes);
    if (in.u8() == 0) {
      RestedRecords::decode_from(in, type_ops<T>())->push_all(out);
    } else if constexpr (std::is_same_v<T, std::string_view>) {
      push_lines(at.task, std::string_view(bytes).substr(1), out);
    }
  }

 private:
  std::string directory_;
  LogHandle handle_;
};
}  // namespace detail

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
    const Time now = runtime_.clock().now();
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
  /// RC-03). With a checkpoint directory, and its write-ahead log not switched off, that is when the block is on the
  /// disk: it then survives any crash and is processed exactly once. On a cluster it is when two executors have it.
  /// `position` says where the source is to be read on behind these records; it is kept with them, and `last_position`
  /// gives it back after a restart. Waits while the byte budget is used up. False when the stream stops; nothing is
  /// taken then, or, when the receiver's executor ends, nobody knows.
  /// Errors: SLU-401, SLU-209 when the block cannot be logged; do not tell the source then.
  bool store(std::span<const T> records, std::string position = {}) {
    if (records.empty()) return !stopped();
    seal();  // records come in the order of storing
    auto block = std::make_shared<detail::RestedRecords>(type_ops<T>());
    block->append(records.data(), records.size());
    return this->store_block(block_of(block, std::move(position)));
  }
  bool store(const std::vector<T>& records, std::string position = {}) {
    return store(std::span<const T>(records), std::move(position));
  }
  /// The position given with the last records that are stored durably, also by an earlier run of the program with the
  /// same checkpoint directory; empty when there is none.
  std::string last_position() { return this->position(); }

  /// Stores text lines that lie in memory, without copying them; `block.owner` keeps them alive. As `store` of many.
  bool store_text(const detail::MemoryBlock& block, std::string position = {})
    requires std::is_same_v<T, std::string_view>
  {
    const std::size_t bytes = block.bytes.size();
    seal();
    return this->store_block({detail::ship<detail::Source, detail::MemoryTextSource>(info_, block), bytes, 0,
                              [block] { return detail::lines_at_rest(block.bytes); },
                              [block] { return text_for_log(block); }, std::move(position)});
  }

  // ---- For the engine

  ReceiverContext(const detail::ReceiverPlace& place, Duration block_interval, Duration batch_interval)
      : ReceiverChannel(place, block_interval), batch_interval_(batch_interval) {}
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
  void add(const Open& full) { this->put_block(block_of(full.records, {}), full.last); }
  /// Number of the batch that time belongs to: batch T has (T - interval, T].
  std::int64_t batch_of(Time time) const { return (time.time_since_epoch() - Duration(1)) / batch_interval_; }

  detail::NewBlock block_of(std::shared_ptr<const detail::RestedRecords> records, std::string position) const {
    const std::size_t bytes = records->bytes();
    const std::uint64_t count = records->count();
    return {detail::ship<detail::Source, detail::RestedSource>(info_, detail::RestedPtr(records)),
            bytes,
            count,
            [records] { return records; },
            [records] { return records_for_log(*records); },
            std::move(position)};
  }

  // A block in the log is a byte that says what follows: encoded records, or text as it came.
  static detail::MemoryBlock records_for_log(const detail::RestedRecords& records) {
    Encoder out;
    out.u8(0);
    records.encode_to(out);
    auto bytes = std::make_shared<const std::string>(out.take());
    return {bytes, *bytes};
  }
  static detail::MemoryBlock text_for_log(const detail::MemoryBlock& block) {
    std::string marked(1, '\1');
    marked += block.bytes;
    auto bytes = std::make_shared<const std::string>(std::move(marked));
    return {bytes, *bytes};
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
  /// Runs on a thread of its own, on a cluster on an executor, until the stream stops. When it returns or throws
  /// earlier, it is called again after the restart delay, unless it said end_of_input. When its executor is lost,
  /// another object is made elsewhere.
  virtual void run(ReceiverContext<T>& context) = 0;
};

namespace detail {
/// A receiver made by the user's factory.
template <class T, class Factory>
class FactoryReceiverProgram : public ReceiverProgram {
 public:
  FactoryReceiverProgram(Fn<Factory> factory, Duration block_interval, Duration batch_interval)
      : factory_(factory), block_interval_(block_interval), batch_interval_(batch_interval) {}

  std::shared_ptr<ReceiverChannel> make_channel(const ReceiverPlace& place) const override {
    return std::make_shared<ReceiverContext<T>>(place, block_interval_, batch_interval_);
  }
  Body make_body() const override {
    return [this, receiver = std::shared_ptr<Receiver<T>>()](ReceiverChannel& channel) mutable {
      if (receiver == nullptr) receiver = factory_.f();  // the same object is run again (RC-07)
      receiver->run(static_cast<ReceiverContext<T>&>(channel));
    };
  }
  const TypeOps& block_type() const override { return type_ops<T>(); }
  Shipped<Source> logged_source(const std::string& wal_directory, const LogHandle& handle) const override {
    return ship<Source, LoggedRecordsSource<T>>(OperatorInfo{}, std::string(wal_directory), LogHandle(handle));
  }

 private:
  const Fn<Factory> factory_;
  const Duration block_interval_;
  const Duration batch_interval_;
};
}  // namespace detail

/// Settings of a receiver.
struct ReceiverOptions {
  /// Pause before `run` is called again (RC-07).
  Duration restart_delay = std::chrono::seconds(2);
  /// The host whose executors it is to run on: what that machine calls itself (hostname), or the address that its
  /// executors are reached by (RC-10). Of these it gets the one with the fewest receivers that has a free core. Where
  /// there is none it runs elsewhere, as if nothing was preferred, and a line on standard error says so. The same again
  /// each time that its executor is lost. Without executors it means nothing.
  std::string preferred_location{};
};

}  // namespace sluice
