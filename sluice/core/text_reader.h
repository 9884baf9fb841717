// Lines out of ranges of files, plain or compressed.
#pragma once

#include "sluice/core/sources.h"

namespace sluice::detail {

/// Pushes the lines that begin in the range. Reads through one buffer that is used again, so the text is not kept.
/// Errors: SLU-411 missing file, SLU-412 other size than expected, SLU-301/302 damaged compressed data.
void read_text_range(const OpenAt& at, const TextRange& range, const TextReadOptions& options, Pipe& out);

/// True for names that end in ".gz" or ".zst": such files can't be split.
bool is_compressed(std::string_view path);

}  // namespace sluice::detail
