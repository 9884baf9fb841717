// Running a stream as a service: signals, exit statuses, readiness. See docs/service.md.
//
//     int main(int argc, char** argv) {
//       sluice::init(argc, argv);
//       return sluice::supervise([] {
//         return sluice::StreamingContext::get_or_create("/var/lib/hits", declare, {.app = "hits", .batch = 100ms});
//       });
//     }
#pragma once

#include <functional>

#include "sluice/api/streaming_context.h"

namespace sluice {

/// What a program that is run by `supervise` exits with. 128 + N when signal N ended it at once.
enum ExitStatus : int {
  /// The stream has stopped: it was asked to, or its input has come to an end.
  exit_stopped = 0,
  /// An error that may be gone after a restart, such as an output that could not be written.
  exit_failed = 1,
  /// The command line was not understood.
  exit_usage = 2,
  /// An error that a restart cannot mend: the program, a setting or the checkpoint directory must be changed first, or
  /// another driver has taken over. Not to be restarted by itself (systemd: RestartPreventExitStatus).
  exit_needs_change = 3,
};

/// The exit status for an error that ended a program.
ExitStatus exit_status(const Error& error);

/// Makes a stream by `make`, starts it and waits for its end; returns what to exit with. An error is printed on
/// standard error.
///
/// SIGTERM and SIGINT ask for a graceful stop: receivers stop first, what they have stored is processed, a checkpoint
/// is written. A second one ends the process at once; the next start then recovers, with the same results. A signal
/// before the stream is started ends the program when `make`, or the start, is through.
///
/// Under systemd (Type=notify) the service is told to be ready when the stream has started, that is after its state has
/// been read; where there is no NOTIFY_SOCKET that does nothing.
int supervise(const std::function<StreamingContext()>& make);

}  // namespace sluice
