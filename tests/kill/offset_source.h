// A reliable source over TCP, as a receiver of a user's program would read it.
//
// The receiver says "FROM n" and gets the lines from number n on, one after the other as they come to be; it stores
// them in blocks, and says "ACK n" when all before n are stored. What is acknowledged the source may forget.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/sluice.h"

namespace sluice::kill {

/// A connection that ends with its owner. Throws what goes wrong.
class LineConnection {
 public:
  LineConnection(in_addr host, std::uint16_t port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr = host;
    if (::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      ::close(socket_);
      throw std::runtime_error("the source does not answer");
    }
  }
  ~LineConnection() { ::close(socket_); }
  LineConnection(const LineConnection&) = delete;
  LineConnection& operator=(const LineConnection&) = delete;

  void send(const std::string& text) {
    for (std::size_t done = 0; done < text.size();) {
      const ssize_t sent = ::send(socket_, text.data() + done, text.size() - done, MSG_NOSIGNAL);
      if (sent < 0 && errno != EINTR) throw std::runtime_error("the source is gone");
      if (sent > 0) done += static_cast<std::size_t>(sent);
    }
  }
  /// Appends what has come within `wait`.
  void read(std::chrono::milliseconds wait, std::string& to) {
    pollfd poll{socket_, POLLIN, 0};
    if (::poll(&poll, 1, static_cast<int>(wait.count())) <= 0) return;
    char buffer[16 << 10];
    const ssize_t got = ::recv(socket_, buffer, sizeof buffer, 0);
    if (got == 0) throw std::runtime_error("the source has closed the connection");
    if (got > 0) to.append(buffer, static_cast<std::size_t>(got));
  }

 private:
  const int socket_;
};

class OffsetReceiver : public Receiver<std::string_view> {
 public:
  OffsetReceiver(in_addr host, std::uint16_t port) : host_(host), port_(port) {}

  void run(ReceiverContext<std::string_view>& context) override {
    LineConnection source(host_, port_);
    std::uint64_t next = 0;
    const std::string position = context.last_position();
    std::from_chars(position.data(), position.data() + position.size(), next);
    source.send("FROM " + std::to_string(next) + "\n");
    std::string bytes;
    while (!context.stopped()) {
      source.read(std::chrono::milliseconds(20), bytes);
      const std::size_t end = bytes.rfind('\n') + 1;
      if (end == 0) continue;
      auto text = std::make_shared<const std::string>(bytes.substr(0, end));
      bytes.erase(0, end);
      std::vector<std::string_view> lines;
      for (std::string_view rest = *text; !rest.empty(); rest.remove_prefix(rest.find('\n') + 1)) {
        lines.push_back(rest.substr(0, rest.find('\n')));
      }
      next += lines.size();
      // Both ways of handing over a block take turns.
      const bool stored = next % 2 == 0 ? context.store(lines, std::to_string(next))
                                        : context.store_text({text, *text}, std::to_string(next));
      if (!stored) return;
      source.send("ACK " + std::to_string(next) + "\n");
    }
  }

 private:
  const in_addr host_;
  const std::uint16_t port_;
};

}  // namespace sluice::kill
