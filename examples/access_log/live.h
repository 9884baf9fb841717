// The log as a stream: figures of each batch, of a window and since the start, until it is stopped.
#pragma once

#include <cstdio>

#include "examples/access_log/options.h"

namespace access_log {

/// Runs until Ctrl-C or SIGTERM, the end of standard input, or `options.run_time`; everything that was read by then is
/// counted. Writes to the file descriptor `out`: a screen that is drawn anew each batch if that is a terminal, else a
/// line a batch, and a line of totals at the end. Returns the exit status.
int run_live(const Options& options, int out);

}  // namespace access_log
