// Lines appended to one file, through its rotations: `tail -F` as a stream.
//
//     auto input = make_follow_file_input(engine, "/var/log/nginx/access.log", {}, counter, partitions_max);
//
// No receiver and no core of its own: each batch looks what was appended, the tasks read it.
//
// Rules:
//  - A batch takes what was appended since the last one, up to the last line end. Bytes after it wait for their end.
//  - Without `from_start`, the first record is the first line that ends after start(): a line whose beginning stands
//    there already is given whole.
//  - Rotation (the path leads to another file): the old file stays open and is read to its end first, in as many
//    batches as that takes, then the new one from its beginning. Writers may go on writing to the old one for a moment:
//    it is closed by the first batch `rotation_wait` after the one that saw the rotation, not before it is read to its
//    end; then an unfinished last line is a line. While the path leads nowhere, the open file is followed.
//  - A file that was made and moved away again between two batches is not seen (nor would `tail -F` see it).
//  - Truncation (the file is shorter than what was read, or the bytes before that place are others than those that
//    were read): starts again at 0, counted. What was cut off before a batch or its task came to read it is lost. Not
//    noticed: a truncated file that has grown past the old place again with the same bytes before it.
//  - Lines over the limit are skipped and counted, however long.
//  - The file may be missing at start: the stream waits for it, and then begins at 0.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "sluice/stream/input.h"

namespace sluice {

struct FollowFileOptions {
  /// Also take what stands in the file at start().
  bool from_start = false;
  /// Longest line in bytes, without its end. Longer ones are skipped and counted.
  std::uint64_t line_bytes_max = 1 << 20;
  /// How long after a rotation, in batch times, writers may still write to the old file. At least one batch.
  Duration rotation_wait = std::chrono::seconds(1);
  /// Most bytes of a batch; what is left is taken by the next ones. At least one line is taken.
  std::uint64_t bytes_per_batch_max = 64 << 20;
};

namespace detail {

/// The lines appended to the file at `path`, ends "\n" and "\r\n" cut off.
///
/// Cost:    one stat and one look at the file's end a batch; the text is not copied. Tasks of this process read from
///          the open file, whatever its name is by then; a task that is sent to another process takes its bytes along.
/// Errors:  start(): SLU-411 when the path is a directory or not readable. Later: an empty batch, counted.
/// `too_long_counter`: accumulator of the engine that counts lines over the limit; 0: not counted.
std::unique_ptr<Input> make_follow_file_input(Engine& engine, std::string path, FollowFileOptions options,
                                              std::uint64_t too_long_counter, std::size_t partitions_max);

}  // namespace detail
}  // namespace sluice
