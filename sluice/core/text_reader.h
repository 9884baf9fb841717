// Lines out of ranges of files, plain or compressed.
#pragma once

#include <string_view>

#include "sluice/core/sources.h"
#include "sluice/runtime/filesystem.h"

namespace sluice::detail {

/// Pushes the lines that begin in the range. Reads through one buffer that is used again, so the text is not kept.
/// Errors: SLU-411 missing file, SLU-412 another file or a shorter one than expected, SLU-301/302 damaged compressed
/// data.
void read_text_range(const OpenAt& at, const TextRange& range, const TextReadOptions& options, Pipe& out);

/// Pushes the lines of the bytes [begin, end) of a plain file, which begin at the beginning of a line; the last line
/// may lack its end. Stops where the file ends. Returns how many bytes it has read.
std::uint64_t read_text_bytes(const OpenAt& at, File& file, std::uint64_t begin, std::uint64_t end,
                              const TextReadOptions& options, Pipe& out);

/// Pushes the lines of `text` as `push_lines` does, but those over the limit, which are counted.
void push_lines_within(const OpenAt& at, std::string_view text, const TextReadOptions& options, Pipe& out);

/// True for names that end in ".gz" or ".zst": such files can't be split.
bool is_compressed(std::string_view path);

}  // namespace sluice::detail
