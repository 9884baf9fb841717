// Tasks in a second process of the same binary.
//
// The message is a TaskProgram (program.h) with its TaskId; the answer a TaskResult or an error. Frames are
// length (4 bytes), CRC32C (4 bytes), payload, over a connection of the runtime.
#pragma once

#include <memory>
#include <string>

#include "sluice/core/program.h"
#include "sluice/runtime/process.h"

namespace sluice::detail {

/// Largest frame that is accepted.
inline constexpr std::size_t frame_bytes_max = 64 << 20;

void write_frame(Connection& connection, std::string_view payload, Time deadline);
/// nullopt at the end of the stream. Errors: SLU-305 too large, SLU-301 wrong checksum, SLU-302, SLU-402.
std::optional<std::string> read_frame(Connection& connection, Time deadline);

/// A child process that runs tasks. The binary must call `sluice::init` first thing in `main`.
class TaskProcess {
 public:
  TaskProcess();
  ~TaskProcess();
  /// Runs the task there. Its own errors come back as SLU-201.. as they were thrown there; SLU-413 when the process
  /// ends.
  TaskResult run(const TaskProgram& program, const TaskId& id, std::uint64_t hash_seed);

 private:
  std::unique_ptr<ChildProcess> child_;
};

/// In a child made by TaskProcess: runs tasks until the parent closes the connection, then ends the process.
void run_tasks_if_child(int argc, char** argv);

}  // namespace sluice::detail
