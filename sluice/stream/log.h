// An append-only log in a directory: the driver's journal, and the receivers' write-ahead log.
//
//     Log log(runtime, "ckpt/journal", {.epoch = 3});
//     const LogPosition at = log.append({bytes});      // returns at once; order of appends is order in the log
//     log.wait_durable(at);                            // until a sync has covered it; many records share one
//
// Records lie in segments. One thread of the log writes and syncs whatever has been appended since its last sync (group
// commit), so a sync costs the same for one record and for a thousand. A log is never appended to after its process has
// gone: each new owner begins a segment of its own, whose header says where the segment before ended for it. What an
// older owner that is still alive writes there afterwards is outside that end and never read; its later segments are
// not part of the chain. (Format: docs/formats.md, "Logs"; log_format.h writes it, log_reader.cc reads it.)
//
// Invariants:
//  L1. A record that `wait_durable` returned for is read back by every later owner, byte for byte, or reading fails.
//  L2. After each group's sync its end and a checksum of the group are written to a second file, `commit-EPOCH`, which
//      is synced too before the next group is. Bytes before that end that do not fit their checksums are damage
//      (SLU-301); only what lies beyond may count as a torn tail, is left out, and is told.
//  L3. Positions grow in the order of append calls; what is durable is a prefix.
//  L4. Nothing is created on disk before the first append (WL-17), and no segment is removed but by `remove_before`.
//      The newest segment that is durable is never removed: it is the place where the next one is linked.
//  L5. After an operation on files that failed nothing more is written: every later call fails with that error. A
//      failed sync ends the process (FileSystem).
//  L6. What is read may have been written by a process that died before its sync, and not be on the disk. A new owner
//      syncs it before its own first segment says that it is part of the log. Who uses it without appending anything
//      calls `sync_log` before.
//
// Threads: append, wait_durable and durable from all threads; the log's own thread alone touches the disk.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/core/codec.h"
#include "sluice/core/sources.h"
#include "sluice/runtime/runtime.h"

namespace sluice::detail {

/// Where a record lies, for reading it alone.
struct LogHandle {
  std::uint64_t epoch = 0;
  std::uint64_t segment = 0;
  /// Of the record's header in the segment's file.
  std::uint64_t offset = 0;
  /// Of the record's content.
  std::uint32_t bytes = 0;
  friend bool operator==(const LogHandle&, const LogHandle&) = default;
};

/// What `append` returns: how far the log must be durable for the record to be, and where the record lies.
struct LogPosition {
  /// Bytes ever appended by this owner, this record included.
  std::uint64_t end = 0;
  LogHandle handle;
};

/// Settings of a log.
struct LogOptions {
  /// Of the owner; larger than that of every owner before. Part of file names, so two owners never write to one file.
  std::uint64_t epoch = 1;
  /// A segment that has reached this size is followed by a new one.
  std::uint64_t segment_bytes = 8 << 20;
  /// Asked on the log's thread before each group is written, again before its waiters are told, and before segments
  /// are removed; true: another owner has taken over, and the log fails with SLU-209. Empty: no.
  std::function<bool()> fenced{};
  /// `append` waits while more bytes than this are not durable yet. ~0: never; then the caller bounds them.
  std::uint64_t pending_bytes_max = 64 << 20;
  /// Names the log's thread and its kill points (docs/kill_points.md, "Logs").
  std::string name = "log";
};

/// A segment on disk that is part of the chain.
struct LogSegment {
  std::uint64_t epoch = 0;
  std::uint64_t number = 0;
  std::string path;
  /// Up to where its records count.
  std::uint64_t end = 0;
};

/// What reading found.
struct LogContent {
  /// In order. Those before `from_segment` that are still there are among them.
  std::vector<LogSegment> segments;
  /// Number of the next owner's first segment: the last one's + 1, and at least `from_segment`, since what a checkpoint
  /// declares needless may never have become durable.
  std::uint64_t next_segment = 1;
  /// Bytes at the end of the newest segments that never became durable: left out.
  std::uint64_t torn_bytes = 0;
  /// Segments that are not part of the chain, by path: of an owner that was fenced out, or torn as a whole, or left by
  /// a removal that was interrupted.
  std::vector<std::string> strays;
};

/// Calls `record(handle, content)` for each record of the log in `directory`, in order, from the first segment whose
/// number is at least `from_segment`. The content is valid during the call. An empty or missing directory is an empty
/// log. Read-only; the log may be written meanwhile (then what is read is a prefix).
/// Cost:   the segments from `from_segment` on are read once, and always the newest one, whose end must be found;
///         memory for the largest record.
/// Errors: SLU-301 damage before the committed end, naming file and offset; SLU-302 a segment of the chain is missing
/// that is not older than `from_segment`; SLU-303 a newer format; SLU-401; what `record` throws.
LogContent read_log(FileSystem& files, const std::string& directory, std::uint64_t from_segment,
                    const std::function<void(const LogHandle&, std::string_view)>& record);

/// Makes durable what `content`, which `read_log` gave, has (L6).
void sync_log(FileSystem& files, const std::string& directory, const LogContent& content);

/// The largest number that a segment in the directory has by its name; 0: there is none. Reading from there on finds
/// the end of a log without reading all of it.
std::uint64_t last_log_segment(FileSystem& files, const std::string& directory);

/// The content of one record. Errors: SLU-301, SLU-302 when it is not what was written, SLU-411 when its segment is
/// gone.
std::string read_log_record(FileSystem& files, const std::string& directory, const LogHandle& handle);

/// See the head of this file.
class Log {
 public:
  /// Begins after what `content` (of read_log by this owner, or empty for a new log) has. Errors: SLU-109 for an epoch
  /// that is not larger than that of the last owner.
  Log(Runtime& runtime, std::string directory, LogContent content, LogOptions options);
  /// Writes and syncs what was appended, unless the log has failed.
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  /// Appends one record, the pieces one after the other (at least one byte in all, at most 1 GiB). A body of
  /// `kept_bytes_min` or more is kept by its owner until it is written, all else is copied. May wait: see
  /// LogOptions::pending_bytes_max.
  /// Errors: SLU-109 an empty record, SLU-305 a larger one; what made the log fail.
  LogPosition append(std::string_view bytes);
  LogPosition append(std::string_view header, const MemoryBlock& body);
  /// The same for a record that is the first of a new segment.
  LogPosition append_in_new_segment(std::string_view bytes);
  static constexpr std::uint64_t kept_bytes_min = 64 << 10;

  /// Returns when all up to `position` is durable. Errors: what made the log fail before that.
  void wait_durable(const LogPosition& position) { wait_durable(position.end); }
  void wait_durable(std::uint64_t end);
  /// Whether it is. Errors: what made the log fail before that.
  bool durable(std::uint64_t end);
  /// End of what has been appended. Errors: what made the log fail.
  std::uint64_t end();
  /// Calls `told` on the log's thread after each sync and when the log fails; it must not wait, nor throw. Before the
  /// first append.
  void on_durable(std::function<void()> told);

  /// The number of the segment that the next record goes to.
  std::uint64_t segment();
  /// Begins a new segment with the next record, unless that is the first of its segment anyway.
  void roll();
  /// Removes all segments with a smaller number, and strays; on the log's thread, later: the newest durable segment
  /// only when its successor is durable (L4). A record with a handle there is gone.
  void remove_before(std::uint64_t segment);
  /// Removed so far.
  std::uint64_t segments_removed();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sluice::detail

namespace sluice {
/// So that handles can be part of records.
template <>
struct codec<detail::LogHandle> {
  static constexpr std::string_view name = "log_handle";
  static void encode(const detail::LogHandle& handle, Encoder& out);
  static detail::LogHandle decode(Decoder& in);
};
}  // namespace sluice
