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
// not part of the chain. (Format: docs/formats.md, "Logs".)
//
// Invariants:
//  L1. A record that `wait_durable` returned for is read back by every later owner, byte for byte, or reading fails.
//  L2. After each group's sync its end and a checksum of the group are written to a second file, `commit-EPOCH`, which
//      is synced too before the next group is. Bytes before that end that do not fit their checksums are damage
//      (SLU-301); only what lies beyond may count as a torn tail, is left out, and is told.
//  L3. Positions grow in the order of append calls; what is durable is a prefix.
//  L4. Nothing is created on disk before the first append (WL-17), and no segment is removed but by `remove_before`.
//  L5. After a write that failed nothing more is written: every later call fails with that error. A failed sync ends
//      the process (FileSystem).
//
// Threads: append, wait_durable and durable from all threads; the log's own thread alone touches the disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
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
  /// Asked before each group is written; true: another owner has taken over, and the log fails with SLU-209. Empty: no.
  std::function<bool()> fenced{};
  /// Names of the kill points: "NAME.before_write", ".mid_record", ".before_sync", ".after_sync", ".rotate".
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
  /// In order.
  std::vector<LogSegment> segments;
  /// Bytes at the end of the last segment that never became durable: left out.
  std::uint64_t torn_bytes = 0;
  /// Segments that are not part of the chain (of an owner that was fenced out), by path.
  std::vector<std::string> strays;
};

/// Calls `record(handle, content)` for each record of the log in `directory`, in order, from the first segment whose
/// number is at least `from_segment`. An empty or missing directory is an empty log. Read-only; the log may be written
/// meanwhile (then what is read is a prefix).
/// Errors: SLU-301 damage before the committed end, naming file and offset; SLU-302 a segment of the chain is missing
/// that is not older than `from_segment`; SLU-303 a newer format; SLU-401.
LogContent read_log(FileSystem& files, const std::string& directory, std::uint64_t from_segment,
                    const std::function<void(const LogHandle&, std::string_view)>& record);

/// The content of one record. Errors: SLU-301, SLU-302 when it is not what was written, SLU-411 when its segment is
/// gone.
std::string read_log_record(FileSystem& files, const std::string& directory, const LogHandle& handle);

/// See the head of this file.
class Log {
 public:
  /// Begins after what `content` (of read_log by this owner, or empty for a new log) has.
  Log(Runtime& runtime, std::string directory, LogContent content, LogOptions options);
  /// Writes and syncs what was appended, unless the log has failed.
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  /// Appends one record, the pieces one after the other (at least one byte in all, at most 1 GiB). Small pieces are
  /// copied; one of 64 KiB or more is kept by its owner until it is written. Waits while more than `pending_bytes_max`
  /// bytes are not written yet.
  /// Errors: what made the log fail.
  LogPosition append(std::string_view bytes);
  LogPosition append(std::string_view header, const MemoryBlock& body);
  static constexpr std::uint64_t pending_bytes_max = 64 << 20;

  /// Returns when all up to `position` is durable. Errors: what made the log fail.
  void wait_durable(const LogPosition& position) { wait_durable(position.end); }
  void wait_durable(std::uint64_t end);
  bool durable(std::uint64_t end);
  /// End of what has been appended.
  std::uint64_t end();
  /// Calls `told` on the log's thread after each sync and when the log fails; it must not wait. Before the first
  /// append.
  void on_durable(std::function<void()> told);

  /// The number of the segment that the next record goes to.
  std::uint64_t segment();
  /// Begins a new segment with the next record.
  void roll();
  /// Removes all segments with a smaller number, and strays; on the log's thread, later. A record with a handle there
  /// is gone.
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
