// Byte streams between processes, behind an interface, so that a test can delay, cut and reorder them.
//
// All calls block in the runtime only, take a deadline, and can be interrupted by closing the connection or the
// listener from another thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "sluice/runtime/clock.h"

namespace sluice {

/// Where to connect or listen: "host:port" (TCP) or "unix:/path" (mode 0600). Port 0 lets the system choose.
struct Address {
  std::string text;
  static Address tcp(const std::string& host, std::uint16_t port) { return {host + ":" + std::to_string(port)}; }
};

/// A two-way byte stream. Threads: one reader, one writer, and `close` from anywhere.
class Connection {
 public:
  virtual ~Connection() = default;
  /// Reads at least one byte and at most `into.size()`; 0 at the end of the stream. nullopt when `deadline` passed.
  /// Errors: SLU-402 (reset, closed by us).
  virtual std::optional<std::size_t> read(std::span<char> into, Time deadline) = 0;
  /// Writes all bytes. Errors: SLU-402 (reset, closed by us, deadline passed).
  virtual void write(std::span<const char> bytes, Time deadline) = 0;
  /// Ends both directions and wakes blocked calls. May be called more than once.
  virtual void close() = 0;
  virtual std::string peer() const = 0;
};

/// Waits for connections.
class Listener {
 public:
  virtual ~Listener() = default;
  /// nullptr when the deadline passed or the listener was closed.
  virtual std::unique_ptr<Connection> accept(Time deadline) = 0;
  /// The address bound, with the real port.
  virtual Address address() const = 0;
  virtual void close() = 0;
};

/// Opens byte streams.
class Transport {
 public:
  virtual ~Transport() = default;
  /// Errors: SLU-402 (refused, unknown host, deadline passed), SLU-109 (an address that cannot be understood).
  virtual std::unique_ptr<Connection> connect(const Address& address, Time deadline) = 0;
  /// Listens on loopback or a unix socket. Errors: SLU-402 when bound already, SLU-403 for any other address,
  /// SLU-109 for one that cannot be understood.
  virtual std::unique_ptr<Listener> listen(const Address& address) = 0;
};

}  // namespace sluice
