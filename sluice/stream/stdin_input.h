// Lines of standard input, until its end.
//
//     cat access.log | ./my_program
//
// A receiver like the socket's (text_receiver.h), but one that ends: at the end of the input the stream can stop by
// itself (`Input::ended`).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "sluice/stream/received_blocks.h"

namespace sluice::detail {

struct StdinTextOptions {
  /// Longest line in bytes, without its end. Longer ones are dropped and counted.
  std::uint64_t line_bytes_max = 1 << 20;
  /// Accumulator of the engine that counts them; 0: not counted.
  std::uint64_t too_long_counter = 0;
  /// Longest time that lines wait for their block to fill; a batch time does not wait for it.
  Duration block_interval = std::chrono::milliseconds(200);
  /// Most partitions of a batch; more blocks than that share one.
  std::size_t partitions_max = 1024;
};

/// The lines of standard input, ends "\n" and "\r\n" cut off. An unfinished last line is a line. An error of standard
/// input is told as a receiver error and ends it, too: it cannot be opened again.
///
/// Limits:  while stored bytes are over the budget nothing is read, so the program that writes to the pipe waits.
/// Threads: one receiver thread of the driver from `start` on, and one core. One such input a process.
std::unique_ptr<Input> make_stdin_text_input(std::shared_ptr<ReceiverBudget> budget, const StdinTextOptions& options);

}  // namespace sluice::detail
