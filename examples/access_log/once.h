// One report of an input that has an end: `access_log --input ... --once`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "examples/access_log/options.h"
#include "examples/access_log/report.h"
#include "examples/access_log/terminal.h"

namespace access_log {

struct OnceResult {
  Report report;
  std::vector<MalformedSample> samples;
};

/// Reads the file, the directory or standard input to its end.
///
/// Files are one batch job. Standard input is a stream that stops at its end: its text need not fit memory. Lines over
/// 1 MiB count as malformed.
OnceResult read_once(const Options& options);

/// The report for people, on several lines.
std::string to_text(const OnceResult& result);

}  // namespace access_log
