// Messages between processes, over a connection of the runtime.
//
// A message travels as one or more frames: length (4 bytes; the top bit says that more frames of the message follow),
// CRC32C of the frame's number, the length and the payload (4 bytes), payload. The version of what is in them is agreed
// on once, in the first message each way (messages.h).
//
// Frames of a Channel are numbered in each direction. The number does not travel: a frame that comes twice, is missing
// or out of its turn has a wrong checksum, and the connection ends. TCP and TLS do not let that happen; whatever stands
// between them, or goes wrong in here, might.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "sluice/runtime/runtime.h"
#include "sluice/runtime/transport.h"

namespace sluice::detail {

/// Largest payload of a frame.
inline constexpr std::size_t frame_bytes_max = 4 << 20;
/// Largest message that is accepted where nothing else is said.
inline constexpr std::size_t message_bytes_max = std::size_t{2} << 30;

/// `frames`: how many there were before in this direction; counted on. Errors: SLU-402.
void write_message(Connection& connection, std::string_view message, Time deadline, std::uint64_t& frames);
/// The only message in its direction, or one that is not numbered.
void write_message(Connection& connection, std::string_view message, Time deadline);
/// nullopt at the end of the stream. Memory is taken as bytes come in, not as a peer announces them.
/// Errors: SLU-305 larger than `bytes_max`, SLU-301 a wrong checksum, SLU-302, SLU-402.
std::optional<std::string> read_message(Connection& connection, Time deadline, std::size_t bytes_max,
                                        std::uint64_t& frames);
std::optional<std::string> read_message(Connection& connection, Time deadline,
                                        std::size_t bytes_max = message_bytes_max);

/// A connection that several threads write whole messages to. Threads: `send` and `close` from all, one that receives.
class Channel {
 public:
  Channel(Runtime& runtime, std::unique_ptr<Connection> connection);

  /// Waits for its turn and for room: back pressure is that of the connection. After an error nothing can be sent any
  /// more. Errors: SLU-402 (closed, reset, not taken within `send_time_max`).
  void send(std::string_view message);
  /// nullopt at the end of the stream. Errors: those of read_message.
  std::optional<std::string> receive(Time deadline = Time::max(), std::size_t bytes_max = message_bytes_max);
  /// Wakes blocked calls. May be called more than once.
  void close();
  std::string peer() const { return connection_->peer(); }

  /// How long a peer may take to take a message. One that is slower is as good as dead.
  static constexpr Duration send_time_max = std::chrono::minutes(1);

 private:
  Runtime& runtime_;
  const std::unique_ptr<Connection> connection_;
  std::mutex mutex_;
  std::unique_ptr<Condition> turn_;
  bool sending_ = false;
  bool broken_ = false;
  /// Frames so far: of who sends, by turns, and of who receives.
  std::uint64_t sent_ = 0;
  std::uint64_t received_ = 0;
};

}  // namespace sluice::detail
