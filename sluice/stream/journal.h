// The driver's journal: everything that decides the content and the completion of batches, written before it takes
// effect (log first, then mutate).
//
// Events, in the order in which they happen:
//
//     run       a driver begins: epoch, build, zero time, interval, identities of inputs and outputs
//     block     a receiver has stored a block: where its bytes lie, source position
//     batch     a batch has been given its input: for each input the bytes from which it makes the batch's RDD
//     output    an output of a batch is done (with what its sink must remember), or owed
//     delivered an owed output has been delivered (with what its sink must remember)
//     complete  all outputs of a batch are done or owed
//
// Reading gives back what a driver needs to go on: batches that are recorded and their fate, blocks that no batch has
// yet, owed outputs, what sinks remember. Records are versioned (docs/formats.md, "Journal").
//
// Invariants:
//  J1. A batch's allocation is durable before anything that follows from its content is visible outside.
//  J2. Blocks leave the unallocated ones only by being named in a batch record.
//  J3. A segment is removed only when no batch or block that may be needed is recorded in it.
//
// Threads: `block` from receivers' threads, all else on the stream's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/runtime/clock.h"
#include "sluice/stream/log.h"

namespace sluice::detail {

/// A block as it is recorded.
struct RecordedBlock {
  /// Numbers of one input's blocks grow from run to run.
  std::uint64_t number = 0;
  std::uint64_t bytes = 0;
  std::uint64_t records = 0;
  Time stored{};
  /// Where its bytes lie in the write-ahead log; nothing: in memory alone.
  std::optional<LogHandle> handle;
  /// What a receiver said of its source's position, for the next run.
  std::string position;
  /// Under which owner it lies on executors; 0: on none.
  std::uint64_t owner = 0;
};

/// A batch as it is recorded.
struct RecordedBatch {
  Time time{};
  /// By identity of the input: what it chose. An input that did not exist then has nothing here.
  std::map<std::string, std::string> inputs;
  /// Identities of outputs that are done or owed.
  std::map<std::string, bool> outputs;  // true: done, false: owed
  bool complete = false;
  /// Build of the program that ran it last.
  std::uint64_t build = 0;
};

/// An output that failed, was let go on without, and must still be delivered.
struct OwedOutput {
  Time time{};
  std::string output;
  friend auto operator<=>(const OwedOutput&, const OwedOutput&) = default;
};

/// What a journal says.
struct JournalContent {
  LogContent log;
  std::uint64_t records = 0;
  bool empty = true;
  /// Of the last run.
  std::uint64_t epoch = 0;
  std::uint64_t build = 0;
  Time zero{};
  Duration interval{};
  /// In order of time.
  std::map<Time, RecordedBatch> batches;
  /// By identity of the input: blocks that no batch has, and all that are named by recorded batches, by number.
  std::map<std::string, std::map<std::uint64_t, RecordedBlock>> blocks;
  /// The same: numbers that some batch has.
  std::map<std::string, std::map<std::uint64_t, Time>> allocated;
  /// By identity of the input: the last position that its receiver told in segments that may have gone, and the number
  /// of the block that it came with. Later blocks have theirs with them.
  struct Told {
    std::uint64_t number = 0;
    std::string position;
  };
  std::map<std::string, Told> receivers;
  /// By both.
  Told last_told(const std::string& input) const;
  std::vector<OwedOutput> owed;
  /// By identity of the output: what its sink said last.
  std::map<std::string, std::string> sinks;
};

/// Reads a journal. Errors: those of read_log; SLU-301, SLU-303 for a record.
JournalContent read_journal(FileSystem& files, const std::string& directory);

/// What a run is about.
struct RunRecord {
  std::uint64_t epoch = 0;
  std::uint64_t build = 0;
  Time zero{};
  Duration interval{};
  std::vector<std::string> inputs;
  std::vector<std::string> outputs;
};

/// See the head of this file.
class Journal {
 public:
  /// Goes on after `content`, which must be what `read_journal` gave. `wait_for_blocks` returns when the bytes of all
  /// blocks that have been recorded are durable.
  Journal(Runtime& runtime, const std::string& directory, const JournalContent& content, RunRecord run,
          std::function<bool()> fenced, std::function<void()> wait_for_blocks);

  /// Of the input with that index in the run record.
  LogPosition block(std::size_t input, const RecordedBlock& block);
  /// `choices` in the order of the run's inputs; `blocks` those that they name, by input.
  LogPosition batch(Time time, const std::vector<std::string>& choices,
                    const std::vector<std::vector<std::uint64_t>>& blocks);
  /// `sink`: what the output's sink must be told after a restart; empty: as before.
  LogPosition output(Time time, std::size_t output, bool done, std::string_view sink);
  LogPosition delivered(Time time, const std::string& output, std::string_view sink);
  LogPosition complete(Time time);

  /// Batches up to `time`, their blocks, and what is before them, will never be needed again. Removes what lies only in
  /// segments without anything later; begins a new segment now and then.
  void forget(Time time);
  /// Blocks of those batches that are in the write-ahead log: the first segment of it that is still needed.
  std::uint64_t first_wal_segment();

  Log& log() { return log_; }

 private:
  struct Alive {
    std::uint64_t segment = 0;
    std::uint64_t wal_segment = ~std::uint64_t{0};
  };
  LogPosition append(const class Encoder& record);
  LogPosition append_locked(const Encoder& record);
  void append_run();

  const RunRecord run_;
  const std::function<void()> wait_for_blocks_;
  Log log_;
  std::mutex mutex_;  // guards what follows; not held across calls of the log that may wait
  std::map<Time, Alive> batches_;
  std::vector<std::map<std::uint64_t, Alive>> unallocated_;
  std::set<OwedOutput> owed_;
  std::map<std::string, std::string> sinks_;
  /// With the segment that says it.
  struct ToldIn : JournalContent::Told {
    std::uint64_t segment = 0;
  };
  std::map<std::string, ToldIn> receivers_;
  std::uint64_t bytes_in_segment_ = 0;
};

}  // namespace sluice::detail
