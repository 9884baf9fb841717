// Sinks: where the results of a stream go, each with a contract that says what a crash does to them.
//
//     class Orders : public sluice::Sink<Order> { ... };
//     orders.save_to(std::make_shared<Orders>(...)).name("orders");
//
// A batch goes into a sink in two steps. Tasks give the records of each partition to a writer of their own, which puts
// them where nobody sees them, or formats them, and returns what the driver needs to know of them. When all partitions
// are written and the batch's input is on the disk, the driver commits: from then on the batch is there for all to see.
// Its journal notes that, with what the sink wants to be told after a restart; a batch that is noted is never given to
// the sink again. A crash between commit and note gives the batch to the sink once more, with the same records: what
// then must not happen twice is the sink's business, and what it promises is its contract.
//
// Meaning: output operations of Spark Streaming (CP-18: the batch's time and the partition's number make a write
// idempotent or a transaction); its own sinks leave this to users.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sluice/core/task.h"
#include "sluice/stream/driver.h"

namespace sluice {

/// What a sink promises across crashes.
enum class Contract {
  /// A batch may be seen twice, none is missing.
  at_least_once,
  /// A batch that is written again replaces itself: (batch, partition) names what is written.
  idempotent,
  /// The records and the batch's number are stored by one transaction of the sink: it knows what it has, and takes
  /// nothing twice.
  transactional,
};

/// "at least once", "idempotent", "transactional".
std::string contract_name(Contract contract);

/// Identifies what is written.
struct SinkBatch {
  /// Name of the application and identity of the output in it.
  std::string app;
  std::string output;
  Time batch{};
  /// No batch before this one will ever be given to the sink again, also not after a restart: the journal has noted,
  /// durably, that this output has done them. Never later than `batch`; much earlier while an older batch is owed
  /// (FailedOutput::go_on), which comes after newer ones. A sink that keeps a note of each batch needs none from
  /// before.
  Time settled{};
  /// Of the driver's run; one with a smaller number has been replaced and must not write any more. 0: no checkpoint
  /// directory, so batches are numbered anew after a restart.
  std::uint64_t epoch = 0;
};

/// Takes the records of one partition of one batch; lives in a task. A task that fails is tried again with a new
/// writer, so whatever one leaves behind without `finish` must do no harm. Threads: used by one.
template <class T>
class SinkWriter {
 public:
  virtual ~SinkWriter() = default;
  /// Records live until it returns.
  virtual void write(std::span<const T> records) = 0;
  /// All records have been written. What it returns is given to `Sink::commit`.
  virtual std::string finish() = 0;
};

/// Which partition a writer is for.
struct SinkPartition {
  Time batch{};
  std::size_t partition = 0;
  /// Number of the attempt; two attempts of one partition never run at the same time on one executor.
  std::uint32_t attempt = 0;
  Runtime& runtime;
};

/// Makes writers where tasks run; travels there (see closure.h: make it with `ship_writers`).
template <class T>
class SinkWriters {
 public:
  virtual ~SinkWriters() = default;
  virtual std::unique_ptr<SinkWriter<T>> open(const SinkPartition& partition) const = 0;
};

/// What a sink is told when its stream starts.
struct SinkStart {
  std::string app;
  std::string output;
  std::uint64_t epoch = 0;
  /// What the last `commit` that is noted returned; empty: none is.
  std::string said;
  Runtime& runtime;
};

/// See the head of this file. Threads: all members on one thread at a time.
template <class T>
class Sink {
 public:
  virtual ~Sink() = default;
  virtual Contract contract() const = 0;
  /// What tells it from other sinks of its kind: a path, a table.
  virtual std::string argument() const = 0;
  /// Called once, at start(). Undoes what was begun and is not noted. Errors make the start fail.
  virtual void start(const SinkStart&) {}
  virtual detail::Shipped<SinkWriters<T>> writers() const = 0;
  /// Makes the batch visible: `parts` is what its writers returned, in the order of partitions. Called once a batch, in
  /// order, also for empty ones; again with the same batch when it failed. With FailedOutput::go_on a batch that has
  /// failed for good comes once more after newer ones. When it is called, what it returned before is noted, durably.
  /// Returns what `start` is to be told; empty: the same as before.
  /// Errors: the output is tried again, then fails its batch.
  virtual std::string commit(const SinkBatch& batch, const std::vector<std::string>& parts) = 0;
  /// The stream ends gracefully, and all batches are noted.
  virtual void close() {}
};

/// Makes an object of class `Writers`, made from `parts`, that travels to tasks: each part has a codec, or is a
/// function wrapped as sluice::detail::Fn.
template <class T, class Writers, class... Parts>
detail::Shipped<SinkWriters<T>> ship_writers(Parts... parts) {
  return detail::ship<SinkWriters<T>, Writers>(detail::OperatorInfo{}, std::move(parts)...);
}

namespace detail {
/// Appends the strings of a partition.
void append_records(const RestedRecords& strings, std::vector<std::string>& to);

/// Runs a partition through a writer; gives what it returned.
template <class T>
class SinkKernel : public Kernel {
 public:
  explicit SinkKernel(Shipped<SinkWriters<T>> writers) : writers_(std::move(writers)) {}
  std::unique_ptr<Pipe> open(const OpenAt& at, Pipe& next) const override {
    return std::make_unique<Writing>(*writers_, at, next);
  }

 private:
  class Writing : public Pipe {
   public:
    Writing(const SinkWriters<T>& writers, const OpenAt& at, Pipe& next)
        : at_(at),
          next_(next),
          writer_(
              writers.open({at.task.batch_time(), at.partition, at.task.id().attempt, at.task.environment().runtime})) {
    }
    void push(const void* records, std::size_t count) override {
      try {
        writer_->write({static_cast<const T*>(records), count});
      } catch (...) {
        rethrow_at_record(at_, done_);
      }
      done_ += count;
    }
    void finish() override {
      try {
        const std::string part = writer_->finish();
        next_.push(&part, 1);
      } catch (...) {
        rethrow_at_record(at_, done_);
      }
      next_.finish();
    }

   private:
    const OpenAt at_;
    Pipe& next_;
    std::uint64_t done_ = 0;
    std::unique_ptr<SinkWriter<T>> writer_;
  };
  Shipped<SinkWriters<T>> writers_;
};
}  // namespace detail

}  // namespace sluice
