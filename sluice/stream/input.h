// Where a stream's records come from.
//
// Two kinds: ranges of something that can be read again (files), chosen by the driver for each batch; and blocks stored
// by a receiver (receiver_input.h). Either way the driver asks each input once a batch, in order of time,
// what the batch has: `choose` says it in bytes, which the journal keeps before anything is made of them; `rdd` makes
// the batch's RDD of those bytes, in this process or in one that has been started again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
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
  struct Recorded {
    /// For `wait_durable`.
    std::uint64_t place = 0;
    /// Where its bytes lie.
    std::optional<LogHandle> handle;
  };
  /// Records a block of this input. `bytes`: of which ReceiverProgram::logged_source makes the block again.
  virtual Recorded record(const RecordedBlock& block, const MemoryBlock& bytes) = 0;
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

  /// Batch `time` comes next: told to all inputs before any of them chooses, so that they get ready at the same time.
  virtual void prepare(Time) {}
  /// What batch `time` has, perhaps nothing. Called once a batch, in order.
  virtual std::string choose(Engine& engine, Time time, InputInfo& told) = 0;
  /// Numbers of the receiver's blocks that the last choice named.
  virtual std::vector<std::uint64_t> chosen_blocks() { return {}; }
  /// The RDD of a choice, perhaps empty; an empty choice is one of nothing. `told` may get what could not be read
  /// again.
  virtual NodePtr rdd(Engine& engine, const OperatorInfoPtr& info, std::string_view choice, InputInfo& told) = 0;
  /// Batch `time` is complete: what it held may go. Until then `rdd` may be asked for it again.
  virtual void completed(Time) {}
  /// Batches since the last checkpoint are run again, because executors have lost state: `rdd` is called with their
  /// choices. These are the receiver's blocks that they name.
  virtual void restore(std::map<std::uint64_t, RecordedBlock>) {}  // NOLINT(performance-unnecessary-value-param)

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
    /// Where it runs.
    std::string place;
  };
  virtual std::vector<ReceiverEvent> take_events() { return {}; }
};

/// An RDD of these sources, one partition each; of one empty partition when there is none.
NodePtr make_input_node(const OperatorInfoPtr& info, const TypeOps& type, std::vector<Shipped<Source>> sources,
                        std::size_t partitions_max);
/// The partitions of these, one after the other; more than `partitions_max` are put together.
NodePtr make_input_node(const OperatorInfoPtr& info, const TypeOps& type, std::vector<NodePtr> nodes,
                        std::size_t partitions_max);

}  // namespace sluice::detail
