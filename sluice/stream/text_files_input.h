// Lines of files as they appear in a directory.
//
//     auto input = make_text_files_input(engine, "/var/spool/events", {}, counter, partitions_max);
//
// No receiver and no core of its own: the directory is listed once a batch, the tasks read the files.
// Meaning: Spark's textFileStream (reference/spark-streaming.md, IN-05..IN-13). On purpose different: a file is known
// by (path, device, inode, birth), times are compared for equality only and with no clock, so a late rename, an old
// file moved in, or a wrong clock loses nothing (IN-06, IN-10; reliability.md F6).
//
// Rules:
//  - A file directly in the directory is taken once, at the first batch that lists it (with a settle time: at the first
//    batch at which it has kept its size that long). Names that begin with "." are never taken, nor directories. An
//    empty file, or a link that leads nowhere, is not there yet.
//  - Files of a batch are in the order of their names; the lines of a file in the order in which they stand there.
//  - It is read as it was when it was listed: `size` bytes. Growth or change of a file that was taken is counted and
//    told once a file, and never read. A file that has become shorter or has gone when its task reads it is an error of
//    the task (SLU-412, SLU-411).
//  - Another file under the same name (other inode or birth) is a new file; so is one under another name.
//  - Known files are forgotten when they are no longer listed, so memory is in proportion to the directory, not to
//    history. One of the same (path, device, inode, birth) that comes back later, moved away and back, is taken again
//    as any file moved in is; and after a failed listing nothing is forgotten.
//  - The directory may go missing after start(): an empty batch, counted (IN-11). Nothing is forgotten then, so one
//    that was unmounted and comes back is not read twice.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "sluice/stream/input.h"

namespace sluice {

struct TextFilesOptions {
  /// Also take the files that lie there at start(). Spark: newFilesOnly = false, without its 60 s cut (IN-07, IN-08).
  bool existing_files = false;
  /// How long a file must keep its size before it is taken, in batch times. 0 suits writers that rename finished files
  /// into the directory. More protects from half-written files and adds as much latency.
  Duration settle_time{0};
  /// Longest line in bytes, without its end. Longer ones are skipped and counted: one broken file must not take the
  /// memory of a batch.
  std::uint64_t line_bytes_max = 1 << 20;
  /// Files are taken, in the order of their names, until they have this many bytes together (as they lie on the disk);
  /// the others wait for the next batch. A batch takes at least one. 0: no limit.
  std::uint64_t bytes_per_batch_max = 0;
};

namespace detail {

/// The lines of each new file in `directory`, ends "\n" and "\r\n" cut off. Files whose names end in ".gz" and ".zst"
/// are decompressed, each in one partition; plain ones are split at 32 MiB.
///
/// Cost:    one listing a batch, O(files there); the text is not copied.
/// Errors:  start(): SLU-410 not a directory, SLU-411 not readable. Later: an empty batch, counted.
/// `too_long_counter`: accumulator of the engine that counts lines over the limit; 0: not counted.
std::unique_ptr<Input> make_text_files_input(Engine& engine, std::string directory, TextFilesOptions options,
                                             std::uint64_t too_long_counter, std::size_t partitions_max);

}  // namespace detail
}  // namespace sluice
