#include "sluice/cluster/channel.h"

#include <algorithm>
#include <span>

#include "sluice/core/codec.h"
#include "sluice/runtime/checksum.h"
#include "sluice/runtime/errors.h"

namespace sluice::detail {
namespace {

constexpr std::size_t header_bytes = 8;
constexpr std::uint32_t more_follow = 1U << 31;
/// Smaller messages are copied behind their header, and so written at once.
constexpr std::size_t copied_bytes_max = 64 << 10;

/// False at the end of the stream, before the first byte.
bool read_whole(Connection& connection, std::span<char> into, Time deadline) {
  for (std::size_t got = 0; got < into.size();) {
    const auto n = connection.read(into.subspan(got), deadline);
    if (!n.has_value()) throw Error(Code::network_failed, {.why = "a message did not arrive in time"});
    if (*n == 0) {
      if (got == 0) return false;
      throw Error(Code::truncated_data, {.why = "the connection ended inside a message"});
    }
    got += *n;
  }
  return true;
}

[[noreturn]] void fail_inside() { throw Error(Code::truncated_data, {.why = "the connection ended inside a message"}); }

std::uint32_t checksum(std::uint64_t number, std::uint32_t length, std::string_view payload) {
  const std::uint32_t of_number = crc32c({reinterpret_cast<const char*>(&number), sizeof number});
  return crc32c(payload, crc32c({reinterpret_cast<const char*>(&length), sizeof length}, of_number));
}

/// Appends the payload of a frame; false at the end of the stream.
bool read_frame(Connection& connection, Time deadline, std::size_t bytes_max, std::string& message, bool& more,
                std::uint64_t& frames) {
  char head[header_bytes];
  if (!read_whole(connection, head, deadline)) return false;
  Decoder header(std::string_view(head, sizeof head));
  const std::uint32_t length = header.u32();
  const std::uint32_t sum = header.u32();
  const std::size_t size = length & ~more_follow;
  more = (length & more_follow) != 0;
  if (size > frame_bytes_max) throw Error(Code::over_limit, {.why = "a frame of " + std::to_string(size) + " bytes"});
  if (size > bytes_max - message.size()) {
    throw Error(Code::over_limit, {.why = "a message of more than " + std::to_string(bytes_max) + " bytes"});
  }
  if (more && size != frame_bytes_max) {
    throw Error(Code::corrupt_data, {.why = "a frame that is not the last of its message and not full"});
  }
  const std::size_t before = message.size();
  message.reserve(before + size);  // a frame of 4 MiB at most; what has not come yet is not touched
  for (std::size_t got = 0; got < size;) {
    const std::size_t next = std::min<std::size_t>(size, std::max<std::size_t>(64 << 10, 2 * got));
    message.resize(before + next);
    if (!read_whole(connection, {message.data() + before + got, next - got}, deadline)) fail_inside();
    got = next;
  }
  if (checksum(frames++, length, std::string_view(message).substr(before)) != sum) {
    throw Error(Code::corrupt_data, {.why = "a frame's checksum is wrong, or the frame is not the next one"});
  }
  return true;
}

}  // namespace

void write_message(Connection& connection, std::string_view message, Time deadline, std::uint64_t& frames) {
  do {
    const std::string_view payload = message.substr(0, frame_bytes_max);
    message.remove_prefix(payload.size());
    const std::uint32_t length = static_cast<std::uint32_t>(payload.size()) | (message.empty() ? 0 : more_follow);
    Encoder header;
    header.u32(length);
    header.u32(checksum(frames++, length, payload));
    if (payload.size() <= copied_bytes_max) {
      header.bytes(payload);
      connection.write(header.view(), deadline);
    } else {
      connection.write(header.view(), deadline);
      connection.write(payload, deadline);
    }
  } while (!message.empty());
}

void write_message(Connection& connection, std::string_view message, Time deadline) {
  std::uint64_t frames = 0;
  write_message(connection, message, deadline, frames);
}

std::optional<std::string> read_message(Connection& connection, Time deadline, std::size_t bytes_max,
                                        std::uint64_t& frames) {
  std::string message;
  bool more = false;
  if (!read_frame(connection, deadline, bytes_max, message, more, frames)) return std::nullopt;
  while (more) {
    if (!read_frame(connection, deadline, bytes_max, message, more, frames)) fail_inside();
  }
  return message;
}

std::optional<std::string> read_message(Connection& connection, Time deadline, std::size_t bytes_max) {
  std::uint64_t frames = 0;
  return read_message(connection, deadline, bytes_max, frames);
}

Channel::Channel(Runtime& runtime, std::unique_ptr<Connection> connection)
    : runtime_(runtime), connection_(std::move(connection)), turn_(runtime.condition()) {}

void Channel::send(std::string_view message) {
  {
    std::unique_lock lock(mutex_);
    while (sending_ && !broken_) turn_->wait(lock);
    if (broken_) throw Error(Code::network_failed, {.why = "the connection to " + peer() + " is broken"});
    sending_ = true;
  }
  // The mutex is not held while the peer is waited for.
  bool is_sent = false;
  const auto end_turn = [&] {
    const std::lock_guard lock(mutex_);
    sending_ = false;
    broken_ = broken_ || !is_sent;
    turn_->notify_all();
  };
  try {
    write_message(*connection_, message, runtime_.clock().now() + send_time_max, sent_);
    is_sent = true;
  } catch (...) {
    end_turn();
    connection_->close();
    throw;
  }
  end_turn();
}

std::optional<std::string> Channel::receive(Time deadline, std::size_t bytes_max) {
  return read_message(*connection_, deadline, bytes_max, received_);
}

void Channel::close() {
  {
    const std::lock_guard lock(mutex_);
    broken_ = true;
    turn_->notify_all();
  }
  connection_->close();
}

}  // namespace sluice::detail
