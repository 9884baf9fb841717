// Lines of text from a TCP server that the stream connects to.
//
//     auto input = make_socket_text_input(engine, budget, {.host = "localhost", .port = 9999});
//
// Meaning: Spark's socketTextStream (reference/spark-streaming.md, IN-03, IN-04). The receiver does no work per line:
// it reads large buffers, finds the last line end in what it read, and hands on whole lines (text_receiver.h).
// On purpose different: a batch holds the lines that had arrived at its time, not those whose block was done by then;
// lines have a limit; bytes that are no text pass unchanged.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "sluice/stream/received_blocks.h"

namespace sluice::detail {

struct SocketTextOptions {
  std::string host;
  std::uint16_t port = 0;
  /// Wait before the next connection after one was refused, ended or broke. It is tried for ever (IN-03).
  Duration restart_delay = std::chrono::seconds(2);
  /// How long one attempt to connect may take, to a host that does not answer.
  Duration connect_timeout = std::chrono::seconds(3);
  /// Longest line in bytes, without its end. Longer ones are dropped and counted.
  std::uint64_t line_bytes_max = 1 << 20;
  /// Accumulator of the engine that counts them; 0: not counted.
  std::uint64_t too_long_counter = 0;
  /// Longest time that lines wait for their block to fill; a batch time does not wait for it.
  Duration block_interval = std::chrono::milliseconds(200);
  /// Most partitions of a batch; more blocks than that share one.
  std::size_t partitions_max = 1024;
};

/// The lines that come from `host:port`, ends "\n" and "\r\n" cut off. An unfinished line at the end of a connection is
/// a line; the next connection begins a new one.
///
/// Guarantee: what is not in a block yet is lost with the process that receives (IN-04); blocks are as safe as the
///            log and the copies that there are.
/// Limits:    while stored bytes are over the budget nothing is read, which the server sees as a full connection.
/// Threads:   call anywhere; one receiver thread from `start` on, here or on an executor, and one core.
/// Errors:    all are told as receiver errors, then the connection is made again.
std::unique_ptr<Input> make_socket_text_input(std::shared_ptr<ReceiverBudget> budget, const SocketTextOptions& options);

}  // namespace sluice::detail
