// What a task is made of: the interfaces of sources, kernels, shuffles and zips, and the context they run in.
//
// Objects behind these interfaces are immutable and shared by all tasks; what changes while a task runs lives in the
// pipes they open, one set an attempt. So an attempt can be thrown away and made again.
#pragma once

#include <atomic>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sluice/core/closure.h"
#include "sluice/core/codec.h"
#include "sluice/core/pipe.h"
#include "sluice/runtime/clock.h"
#include "sluice/runtime/runtime.h"

namespace sluice::detail {

class BlockStore;
class ShuffleStore;
class StateStore;
class TaskContext;

/// Records of a partition of a cached RDD or a received block, by id.
struct BlockId {
  std::uint64_t owner = 0;
  std::uint64_t index = 0;
  friend auto operator<=>(const BlockId&, const BlockId&) = default;
};
class RestedRecords;
using RestedPtr = std::shared_ptr<const RestedRecords>;

class Bucket;
using BucketPtr = std::shared_ptr<const Bucket>;
/// Buckets of shuffles, by shuffle and target, in the order of map partitions.
using BucketsByTarget = std::map<std::pair<std::uint64_t, std::uint32_t>, std::vector<BucketPtr>>;

/// What a process that runs tasks has: its stores and settings. One per Context in local mode.
struct TaskEnvironment {
  Runtime& runtime;
  BlockStore& blocks;
  ShuffleStore& shuffles;
  StateStore& states;
  /// Seed of the key hash, one an application.
  std::uint64_t hash_seed = 0;
  /// Test mode: what rests or shuffles goes through its codec.
  bool check_views = false;
  /// What the task reads of shuffles; nullptr: it is in `shuffles`.
  const BucketsByTarget* buckets = nullptr;
  /// Blocks that it reads and that are not in `blocks`; may be null.
  const std::map<BlockId, RestedPtr>* fetched_blocks = nullptr;
};

/// Which attempt of which task this is.
struct TaskId {
  std::uint64_t job = 0;
  std::uint32_t stage = 0;
  std::uint32_t task = 0;
  std::uint32_t attempt = 0;
  /// Batch time, nanoseconds since 1970; 0 outside a stream.
  std::int64_t batch = 0;
};

/// Sums that tasks add to; adopted by the driver once per successful task.
using AccumulatorUpdates = std::map<std::uint64_t, std::int64_t>;

/// The context of one attempt. Threads: used by the thread that runs it.
class TaskContext {
 public:
  /// `cancelled` may be null; when it becomes true the attempt gives up (SLU-205).
  TaskContext(TaskEnvironment& environment, const TaskId& id, const std::atomic<bool>* cancelled);
  ~TaskContext();
  TaskContext(const TaskContext&) = delete;
  TaskContext& operator=(const TaskContext&) = delete;

  TaskEnvironment& environment() { return environment_; }
  const TaskId& id() const { return id_; }
  Time batch_time() const { return Time(Duration(id_.batch)); }
  /// SLU-205 when the work was cancelled. Sources call it once a chunk.
  void check_cancelled() const {
    if (cancelled_ != nullptr && cancelled_->load(std::memory_order_relaxed)) throw_cancelled();
  }
  void add(std::uint64_t accumulator, std::int64_t amount) { updates_[accumulator] += amount; }
  AccumulatorUpdates take_updates() { return std::move(updates_); }

  /// The attempt that runs on this thread (or fiber), or nullptr.
  static TaskContext* current();

 private:
  [[noreturn]] static void throw_cancelled();

  TaskEnvironment& environment_;
  TaskId id_;
  const std::atomic<bool>* cancelled_;
  AccumulatorUpdates updates_;
  void* outer_;
};

/// Says which operator and partition a pipe is opened for.
struct OpenAt {
  TaskContext& task;
  const OperatorInfo& info;
  std::size_t partition;
  /// For operators with state: the batch time they belong to; else 0.
  std::int64_t batch = 0;
};

/// For operators with state: true when the state, at `version`, has had this batch already and must only tell it
/// again. SLU-204 when the batch is asked for after it has ended.
bool state_has_batch(const OpenAt& at, std::int64_t version);

/// SLU-201 about record number `record` of the operator, from the exception being handled. Errors that name an
/// operator already pass unchanged.
[[noreturn]] void rethrow_at_record(const OpenAt& at, std::uint64_t record);

/// The exception being handled again; a sluice::Error that names no operation gets this one and its place. Not so
/// cancellations. Call inside `catch`.
[[noreturn]] void rethrow_at(const OperatorInfo& info);
/// An error of that operator.
[[noreturn]] void fail_at(const OperatorInfo& info, Code code, std::string why);

/// Makes records out of nothing: blocks, files, a collection.
class Source {
 public:
  virtual ~Source() = default;
  /// Pushes the partition's records, in a fixed order; stops early when `out.full()`. Does not call `finish`.
  virtual void read(const OpenAt& at, Pipe& out) const = 0;
};

/// A narrow operator: chunks in, chunks out, partition by partition.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual std::unique_ptr<Pipe> open(const OpenAt& at, Pipe& next) const = 0;
};

/// What one map task has for one target partition. Immutable once handed over.
class Bucket {
 public:
  virtual ~Bucket() = default;
  virtual std::size_t bytes() const = 0;
};

/// The map side of a shuffle: a pipe that ends in buckets.
class ShuffleWriter : public Pipe {
 public:
  /// One bucket a target; nullptr for an empty one. Called once, after `finish`.
  virtual std::vector<BucketPtr> take_buckets() = 0;
};

/// A wide operator.
class ShuffleKernel {
 public:
  virtual ~ShuffleKernel() = default;
  virtual std::unique_ptr<ShuffleWriter> open_writer(const OpenAt& at, std::size_t targets) const = 0;
  /// Pushes the merged records of one target; `buckets` in the order of map partitions, empty ones nullptr.
  virtual void merge(const OpenAt& at, std::span<const BucketPtr> buckets, Pipe& out) const = 0;
  virtual void encode_bucket(const Bucket& bucket, Encoder& out) const = 0;
  virtual BucketPtr decode_bucket(Decoder& in) const = 0;
};

/// Open inputs of a zip. It calls `finish` of what follows once, when the last input has finished.
class ZipInputs {
 public:
  virtual ~ZipInputs() = default;
  virtual Pipe& input(std::size_t index) = 0;
  /// The attempt's effects become final: called once, after every output of the task has succeeded.
  virtual void commit() {}
};

/// Operator over several parents partitioned alike (joins, keyed state). Inputs may be pushed in any order.
class ZipKernel {
 public:
  virtual ~ZipKernel() = default;
  virtual std::unique_ptr<ZipInputs> open(const OpenAt& at, std::size_t inputs, Pipe& next) const = 0;
};

}  // namespace sluice::detail
