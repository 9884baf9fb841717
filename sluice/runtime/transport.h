// Byte streams between processes, behind an interface, so that a test can delay, cut and reorder them.
//
// All calls block in the runtime only, take a deadline, and can be interrupted by closing the connection, the connector
// or the listener from another thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

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
  virtual void write(std::string_view bytes, Time deadline) = 0;
  /// Ends both directions and wakes blocked calls. May be called more than once.
  virtual void close() = 0;
  /// As `close`, and the peer reads `last_words` before the end. It waits for nothing: what does not fit into the
  /// buffers now is sent by and by, as what was written before is; after 10 s, or when the process ends, it is lost.
  /// Not while another thread writes. For protocols that end with a word, as TLS does; without them this is `close`.
  virtual void close_with(std::string_view last_words) {
    static_cast<void>(last_words);
    close();
  }
  virtual std::string peer() const = 0;
};

/// Makes one connection. Threads: one calls `connect`, once, and `close` from anywhere.
class Connector {
 public:
  virtual ~Connector() = default;
  /// Looks up the name and connects. Errors: SLU-402 (refused, unknown host, deadline passed, closed by us).
  virtual std::unique_ptr<Connection> connect(Time deadline) = 0;
  /// Gives up: wakes a blocked `connect`, and lets a later one fail. Does nothing to a connection made before.
  virtual void close() = 0;
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
  /// Waits for nothing. Errors: SLU-109 (an address that cannot be understood).
  virtual std::unique_ptr<Connector> connector(const Address& address) = 0;
  /// For callers who can wait until the deadline. Errors: those of `connector` and of its `connect`.
  std::unique_ptr<Connection> connect(const Address& address, Time deadline) {
    return connector(address)->connect(deadline);
  }
  /// Listens on loopback or a unix socket. Errors: SLU-402 when bound already, SLU-403 for any other address,
  /// SLU-109 for one that cannot be understood.
  virtual std::unique_ptr<Listener> listen(const Address& address) = 0;
  /// Listens on any address of this host, or on all of them ("0.0.0.0:port", "[::]:port"). Only for who secures what
  /// comes in, as the transport of tls.h does, or whose user has typed `insecure`. Errors: SLU-402, SLU-109 as above.
  virtual std::unique_ptr<Listener> listen_anywhere(const Address& address) = 0;
};

}  // namespace sluice
