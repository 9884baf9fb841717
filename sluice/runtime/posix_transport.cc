// Sockets of this machine.
//
// A socket's descriptor lives as long as its object: `close` shuts the socket down, which wakes every poll on it, and
// only the destructor gives the number back. So no call can run into a descriptor that was closed under it and already
// belongs to another file.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/posix.h"
#include "sluice/runtime/transport.h"

namespace sluice::detail {
namespace {

[[noreturn]] void throw_failed(std::string_view call, std::string_view address, std::string_view why) {
  throw Error(Code::network_failed, {.why = std::string(call).append(" ").append(address).append(": ").append(why)});
}

[[noreturn]] void throw_failed(std::string_view call, std::string_view address, int error) {
  throw_failed(call, address, errno_text(error));
}

/// What wakes one who waits for something else: a descriptor that is readable from the first call on.
class Bell {
 public:
  Bell() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!event_.is_open()) throw_failed("make", "an event", errno);
  }
  void ring() {
    rung_.store(true);
    ::eventfd_write(event_.get(), 1);  // fails only when it has rung 2^64 times
  }
  bool rung() const { return rung_.load(); }
  int get() const { return event_.get(); }

 private:
  const Descriptor event_;
  std::atomic<bool> rung_{false};
};

// Waits until `socket` has one of `events` or is shut down, or until `bell` rings; false when `deadline` passed.
bool wait_for_events(int socket, short events, const Clock& clock, Time deadline, const Bell* bell = nullptr) {
  while (true) {
    // Never longer than an hour, so that no sum overflows and a clock turned by hand is looked at now and then.
    constexpr Duration longest = std::chrono::hours(1);
    const Time now = clock.now();
    const Duration left = deadline <= now ? Duration::zero() : deadline - now < longest ? deadline - now : longest;
    const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
    const timespec timeout{.tv_sec = seconds.count(), .tv_nsec = (left - seconds).count()};
    pollfd waits[] = {{.fd = socket, .events = events, .revents = 0},
                      {.fd = bell == nullptr ? -1 : bell->get(), .events = POLLIN, .revents = 0}};
    const int count = ::ppoll(waits, bell == nullptr ? 1 : 2, &timeout, nullptr);
    if (count > 0) return true;
    if (count < 0 && errno != EINTR) throw_failed("poll", "socket", errno);
    if (count == 0 && deadline <= clock.now()) return false;
  }
}

class PosixConnection final : public Connection {
 public:
  PosixConnection(Descriptor socket, std::string peer, const Clock& clock)
      : socket_(std::move(socket)), peer_(std::move(peer)), clock_(clock) {}

  std::optional<std::size_t> read(std::span<char> into, Time deadline) override {
    // 0 would look like the end of the stream.
    SLUICE_ASSERT(!into.empty());
    while (true) {
      const ssize_t count = ::recv(socket_.get(), into.data(), into.size(), MSG_DONTWAIT);
      const int error = errno;
      // Looked at after the call: a shutdown of ours must not pass for the end of the peer's stream.
      if (closed_.load()) throw_failed("read from", peer_, "the connection was closed on this side");
      if (count >= 0) return static_cast<std::size_t>(count);
      if (error == EINTR) continue;
      if (error != EAGAIN && error != EWOULDBLOCK) throw_failed("read from", peer_, error);
      if (!wait_for_events(socket_.get(), POLLIN, clock_, deadline)) return std::nullopt;
    }
  }

  void write(std::string_view bytes, Time deadline) override {
    while (!bytes.empty()) {
      const ssize_t count = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      const int error = errno;
      if (closed_.load()) throw_failed("write to", peer_, "the connection was closed on this side");
      if (count >= 0) {
        bytes.remove_prefix(static_cast<std::size_t>(count));
        continue;
      }
      if (error == EINTR) continue;
      if (error != EAGAIN && error != EWOULDBLOCK) throw_failed("write to", peer_, error);
      if (!wait_for_events(socket_.get(), POLLOUT, clock_, deadline)) {
        throw_failed("write to", peer_, "the deadline passed with " + std::to_string(bytes.size()) + " bytes to go");
      }
    }
  }

  void close_with(std::string_view last_words) override {
    if (closed_.exchange(true)) return;
    if (send_now(socket_.get(), last_words) && !last_words.empty()) return linger(last_words);
    ::shutdown(socket_.get(), SHUT_RDWR);
  }

  void close() override {
    closed_.store(true);
    // ENOTCONN when the peer was faster: then nothing is left to shut down.
    ::shutdown(socket_.get(), SHUT_RDWR);
  }

  std::string peer() const override { return peer_; }

 private:
  // Takes from `bytes` what the socket has room for; false when it takes none any more.
  static bool send_now(int socket, std::string_view& bytes) {
    while (!bytes.empty()) {
      const ssize_t count = ::send(socket, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (count < 0 && errno != EINTR) return errno == EAGAIN || errno == EWOULDBLOCK;
      bytes.remove_prefix(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    }
    return true;
  }

  // The peer is slow, and this side is done. What was written is the kernel's to deliver; the last words need somebody
  // who waits for room. That is rare: they are few bytes.
  void linger(std::string_view last_words) {
    const auto copy = std::make_shared<Descriptor>(::fcntl(socket_.get(), F_DUPFD_CLOEXEC, 0));
    try {
      std::thread([copy, words = std::string(last_words)] {
        try {
          const Time deadline = system_clock().now() + std::chrono::seconds(10);
          std::string_view left = words;
          while (send_now(copy->get(), left) && !left.empty()) {
            if (!wait_for_events(copy->get(), POLLOUT, system_clock(), deadline)) break;
          }
        } catch (const Error& error) {
          std::fprintf(stderr, "sluice: %s\n", error.what());
        }
        ::shutdown(copy->get(), SHUT_RDWR);
      }).detach();
    } catch (const std::system_error&) {
      // No thread to be had: the words are lost.
      ::shutdown(socket_.get(), SHUT_RDWR);
      return;
    }
    ::shutdown(socket_.get(), SHUT_RD);  // wakes who reads
  }

  const Descriptor socket_;
  const std::string peer_;
  const Clock& clock_;
  std::atomic<bool> closed_{false};
};

constexpr std::string_view unix_prefix = "unix:";

struct HostPort {
  std::string host;
  std::string port;
};

[[noreturn]] void throw_bad_address(const std::string& text, std::string_view why) {
  throw Error(Code::bad_argument, {.why = std::string("address \"").append(text).append("\": ").append(why)});
}

HostPort parse_host_port(const std::string& text) {
  const std::size_t colon = text.find_last_of(':');
  if (colon == std::string::npos) throw_bad_address(text, "neither host:port nor unix:/path");
  std::string host = text.substr(0, colon);
  const std::string port = text.substr(colon + 1);
  unsigned number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (port.empty() || error != std::errc() || end != port.data() + port.size() || number > 65535) {
    throw_bad_address(text, "the port is no number from 0 to 65535");
  }
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string::npos) {
    throw_bad_address(text, "an IPv6 address is written [::1]:port");
  }
  return {std::move(host), port};
}

// A socket address of any family.
struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }
};

SocketAddress unix_address(const std::string& text) {
  const std::string_view path = std::string_view(text).substr(unix_prefix.size());
  sockaddr_un address{};
  if (path.empty()) throw_bad_address(text, "the path is empty");
  if (path.size() >= sizeof address.sun_path) {
    throw_bad_address(
        text, "the path of a unix socket has at most " + std::to_string(sizeof address.sun_path - 1) + " bytes");
  }
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  SocketAddress result;
  std::memcpy(&result.storage, &address, sizeof address);
  result.length = sizeof address;
  return result;
}

// "127.0.0.1:80", "[::1]:80".
std::string to_text(const SocketAddress& address) {
  char host[INET6_ADDRSTRLEN] = "";
  if (address.family() == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, &address.storage, sizeof v6);
    ::inet_ntop(AF_INET6, &v6.sin6_addr, host, sizeof host);
    return "[" + std::string(host) + "]:" + std::to_string(ntohs(v6.sin6_port));
  }
  sockaddr_in v4;
  std::memcpy(&v4, &address.storage, sizeof v4);
  ::inet_ntop(AF_INET, &v4.sin_addr, host, sizeof host);
  return std::string(host) + ":" + std::to_string(ntohs(v4.sin_port));
}

bool is_loopback(const SocketAddress& address) {
  const auto is_loopback_v4 = [](unsigned char first_byte) { return first_byte == 127; };
  if (address.family() == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, &address.storage, sizeof v4);
    return is_loopback_v4(static_cast<unsigned char>(ntohl(v4.sin_addr.s_addr) >> 24));
  }
  if (address.family() == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, &address.storage, sizeof v6);
    if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) return is_loopback_v4(v6.sin6_addr.s6_addr[12]);
    return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
  }
  return false;
}

// What a name leads to, or the words of the resolver.
struct Resolution {
  std::vector<SocketAddress> addresses;
  std::string failure;
};

Resolution resolve_now(const HostPort& name, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int status = ::getaddrinfo(name.host.c_str(), name.port.c_str(), &hints, &found);
  Resolution result;
  if (status != 0) {
    result.failure = status == EAI_SYSTEM ? errno_text(errno) : ::gai_strerror(status);
    return result;
  }
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    SocketAddress address;
    std::memcpy(&address.storage, at->ai_addr, at->ai_addrlen);
    address.length = at->ai_addrlen;
    result.addresses.push_back(address);
  }
  ::freeaddrinfo(found);
  return result;
}

// getaddrinfo knows no deadline and may ask dead name servers for half a minute. So names (not numbers) are looked up
// on a thread that is left behind when the deadline passes or `bell` rings.
Resolution resolve(const HostPort& name, const Clock& clock, Time deadline, const Bell* bell = nullptr) {
  if (name.host.empty()) return {{}, "the host is missing"};
  Resolution numeric = resolve_now(name, AI_NUMERICHOST);
  if (numeric.failure.empty()) return numeric;

  struct Request {
    Resolution answer;  // written before `ready` rings, read after it
    Bell ready;
  };
  const auto request = std::make_shared<Request>();
  std::thread([request, name] {
    request->answer = resolve_now(name, 0);
    request->ready.ring();
  }).detach();

  const bool in_time = wait_for_events(request->ready.get(), POLLIN, clock, deadline, bell);
  if (request->ready.rung()) return std::move(request->answer);
  return {{}, in_time ? "given up on this side" : "the deadline passed while the name was looked up"};
}

Descriptor make_socket(int family, int flags, std::string_view address) {
  Descriptor made(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  if (!made.is_open()) throw_failed("make a socket for", address, errno);
  return made;
}

void send_at_once(int socket) {
  // Frames are whole when written; waiting for more would only add latency. A unix socket refuses and needs it not.
  const int on = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

template <typename Name>
SocketAddress name_of(int socket, Name get_name) {
  SocketAddress address;
  address.length = sizeof address.storage;
  // Zeroes when it fails: the peer of an accepted socket may be gone already.
  if (get_name(socket, address.get(), &address.length) < 0) return {};
  return address;
}

// Whether the socket was connected to itself: the kernel may choose the very port that is asked for as the near end,
// when nobody listens there (simultaneous open). A driver that retries its dead executor would talk to itself.
bool is_own_peer(int socket) {
  const SocketAddress near_end = name_of(socket, ::getsockname);
  const SocketAddress far_end = name_of(socket, ::getpeername);
  return near_end.length == far_end.length && std::memcmp(&near_end.storage, &far_end.storage, near_end.length) == 0;
}

// 0, or the errno of why there is no connection: ECANCELED when `bell` has rung.
int connect_tcp(int socket, const SocketAddress& to, const Clock& clock, Time deadline, const Bell& bell) {
  if (::connect(socket, to.get(), to.length) < 0) {
    // An interrupted connect goes on by itself, as one in progress does.
    if (errno != EINPROGRESS && errno != EINTR) return errno;
    if (!wait_for_events(socket, POLLOUT, clock, deadline, &bell)) return ETIMEDOUT;
    if (bell.rung()) return ECANCELED;
    int error = 0;
    socklen_t length = sizeof error;
    if (::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &length) < 0) return errno;
    if (error != 0) return error;
  }
  return is_own_peer(socket) ? ECONNREFUSED : 0;
}

// A unix socket that does not block says EAGAIN when the backlog is full, and cannot be polled then. So it blocks, with
// the kernel's own time limit: a short one, because nothing wakes it but room in the backlog.
int connect_unix(int socket, const SocketAddress& to, const Clock& clock, Time deadline, const Bell& bell) {
  constexpr auto longest = std::chrono::milliseconds(20);
  while (true) {
    if (bell.rung()) return ECANCELED;
    const Time now = clock.now();
    const Duration left = deadline <= now ? Duration::zero() : deadline - now;
    const auto limit =
        std::chrono::ceil<std::chrono::microseconds>(std::clamp<Duration>(left, std::chrono::microseconds(1), longest));
    const timeval timeout{.tv_sec = limit.count() / 1'000'000, .tv_usec = limit.count() % 1'000'000};
    if (::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) < 0) return errno;
    if (::connect(socket, to.get(), to.length) == 0) return 0;
    if (errno == EAGAIN) {
      if (deadline <= clock.now()) return ETIMEDOUT;
    } else if (errno != EINTR) {
      return errno;
    }
  }
}

// What identifies the file of a unix socket, so that only our own is removed.
struct SocketFile {
  dev_t device = 0;
  ino_t inode = 0;
  bool operator==(const SocketFile&) const = default;
};

std::optional<SocketFile> socket_file(const char* path) {
  struct stat data;
  if (::lstat(path, &data) < 0 || !S_ISSOCK(data.st_mode)) return std::nullopt;
  return SocketFile{data.st_dev, data.st_ino};
}

class PosixListener final : public Listener {
 public:
  PosixListener(Descriptor socket, Address address, const Clock& clock)
      : socket_(std::move(socket)), address_(std::move(address)), clock_(clock) {
    if (is_unix()) file_ = socket_file(path());
  }

  ~PosixListener() override { close_once(); }

  std::unique_ptr<Connection> accept(Time deadline) override {
    while (!closed_.load()) {
      SocketAddress from;
      from.length = sizeof from.storage;
      Descriptor accepted(::accept4(socket_.get(), from.get(), &from.length, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (accepted.is_open()) {
        send_at_once(accepted.get());
        return adopt_socket(std::move(accepted), is_unix() ? address_.text : to_text(from), clock_);
      }
      if (closed_.load()) break;
      // A connection that died in the queue is no failure of the listener (accept(2) lists these).
      if (errno == EINTR || errno == ECONNABORTED || errno == EPROTO || errno == ENETDOWN || errno == EHOSTUNREACH ||
          errno == ENETUNREACH) {
        continue;
      }
      if (errno != EAGAIN && errno != EWOULDBLOCK) throw_failed("accept on", address_.text, errno);
      if (!wait_for_events(socket_.get(), POLLIN, clock_, deadline)) break;
    }
    return nullptr;
  }

  Address address() const override { return address_; }

  void close() override { close_once(); }

 private:
  bool is_unix() const { return address_.text.starts_with(unix_prefix); }
  const char* path() const { return address_.text.c_str() + unix_prefix.size(); }

  void close_once() {
    if (closed_.exchange(true)) return;
    // Wakes accept() and refuses those who come later, though the descriptor stays.
    ::shutdown(socket_.get(), SHUT_RDWR);
    if (file_ && socket_file(path()) == file_) ::unlink(path());
  }

  const Descriptor socket_;
  const Address address_;
  const Clock& clock_;
  std::optional<SocketFile> file_;
  std::atomic<bool> closed_{false};
};

// Whether the socket's file was left behind by a process that is gone. One that is bound and does not listen yet looks
// the same; two programs that start on one path in the same instant are not kept apart.
bool is_abandoned(const SocketAddress& address) {
  const Descriptor probe = make_socket(AF_UNIX, SOCK_NONBLOCK, "a probe");
  return ::connect(probe.get(), address.get(), address.length) < 0 && errno == ECONNREFUSED;
}

class PosixConnector final : public Connector {
 public:
  PosixConnector(Address address, const Clock& clock) : address_(std::move(address)), clock_(clock) {
    if (is_unix()) {
      unix_ = unix_address(address_.text);
    } else {
      name_ = parse_host_port(address_.text);
    }
  }

  std::unique_ptr<Connection> connect(Time deadline) override {
    return is_unix() ? connect_to_unix(deadline) : connect_to_tcp(deadline);
  }

  void close() override { closed_.ring(); }

 private:
  bool is_unix() const { return address_.text.starts_with(unix_prefix); }

  std::unique_ptr<Connection> connect_to_unix(Time deadline) {
    Descriptor socket = make_socket(AF_UNIX, 0, address_.text);
    const int error = connect_unix(socket.get(), unix_, clock_, deadline, closed_);
    if (error != 0) fail(error);
    return adopt_socket(std::move(socket), address_.text, clock_);
  }

  std::unique_ptr<Connection> connect_to_tcp(Time deadline) {
    if (closed_.rung()) fail(ECANCELED);
    const Resolution found = resolve(name_, clock_, deadline, &closed_);
    if (!found.failure.empty()) throw_failed("connect to", address_.text, found.failure);
    int error = EADDRNOTAVAIL;
    for (const SocketAddress& to : found.addresses) {
      Descriptor socket = make_socket(to.family(), SOCK_NONBLOCK, address_.text);
      error = connect_tcp(socket.get(), to, clock_, deadline, closed_);
      if (error == ECANCELED) break;
      if (error != 0) continue;
      send_at_once(socket.get());
      return adopt_socket(std::move(socket), to_text(to), clock_);
    }
    fail(error);
  }

  [[noreturn]] void fail(int error) const {
    if (error == ECANCELED) throw_failed("connect to", address_.text, "given up on this side");
    throw_failed("connect to", address_.text, error);
  }

  const Address address_;
  const Clock& clock_;
  SocketAddress unix_;
  HostPort name_;
  Bell closed_;
};

class PosixTransport final : public Transport {
 public:
  explicit PosixTransport(const Clock& clock) : clock_(clock) {}

  std::unique_ptr<Connector> connector(const Address& address) override {
    return std::make_unique<PosixConnector>(address, clock_);
  }

  std::unique_ptr<Listener> listen(const Address& address) override {
    return address.text.starts_with(unix_prefix) ? listen_unix(address) : listen_tcp(address, Where::loopback);
  }

  std::unique_ptr<Listener> listen_anywhere(const Address& address) override {
    return address.text.starts_with(unix_prefix) ? listen_unix(address) : listen_tcp(address, Where::anywhere);
  }

 private:
  enum class Where { loopback, anywhere };

  std::unique_ptr<Listener> listen_unix(const Address& address) {
    const SocketAddress at = unix_address(address.text);
    const char* const path = address.text.c_str() + unix_prefix.size();
    Descriptor socket = make_socket(AF_UNIX, SOCK_NONBLOCK, address.text);
    // Linux makes the file with the mode of the socket. A chmod of the file afterwards could be led astray by whoever
    // may rename in its directory; umask belongs to the whole process.
    if (::fchmod(socket.get(), 0600) < 0) throw_failed("protect", address.text, errno);
    const auto bind = [&] { return ::bind(socket.get(), at.get(), at.length) == 0 ? 0 : errno; };
    int error = bind();
    if (error == EADDRINUSE && socket_file(path) && is_abandoned(at)) {
      ::unlink(path);
      error = bind();
    }
    if (error == 0 && ::listen(socket.get(), SOMAXCONN) < 0) error = errno;
    if (error != 0) throw_failed("listen on", address.text, error);
    return std::make_unique<PosixListener>(std::move(socket), address, clock_);
  }

  std::unique_ptr<Listener> listen_tcp(const Address& address, Where where) {
    const std::string& text = address.text;
    const HostPort name = parse_host_port(text);
    // No host means all interfaces to most programs, so its failure is that of 0.0.0.0.
    if (where == Where::loopback && (name.host.empty() || name.host == "*")) refuse(text);
    const Resolution found = resolve(name, clock_, Time::max());
    if (!found.failure.empty()) throw_failed("listen on", text, found.failure);
    for (const SocketAddress& at : found.addresses) {
      if (where == Where::loopback && !is_loopback(at)) refuse(text);
    }
    int error = EADDRNOTAVAIL;
    for (const SocketAddress& at : found.addresses) {
      Descriptor socket = make_socket(at.family(), SOCK_NONBLOCK, text);
      // A restarted program must get its port back while old connections of it still fade away (TIME_WAIT).
      const int on = 1;
      ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
      if (::bind(socket.get(), at.get(), at.length) < 0 || ::listen(socket.get(), SOMAXCONN) < 0) {
        error = errno;
        continue;
      }
      Address bound{to_text(name_of(socket.get(), ::getsockname))};
      return std::make_unique<PosixListener>(std::move(socket), std::move(bound), clock_);
    }
    throw_failed("listen on", text, error);
  }

  [[noreturn]] static void refuse(const std::string& text) {
    throw Error(Code::not_listening_address, {.why = text + " is not a loopback address"});
  }

  const Clock& clock_;
};

}  // namespace

std::unique_ptr<Transport> make_posix_transport(const Clock& clock) { return std::make_unique<PosixTransport>(clock); }

std::unique_ptr<Connection> adopt_socket(Descriptor socket, std::string peer, const Clock& clock) {
  return std::make_unique<PosixConnection>(std::move(socket), std::move(peer), clock);
}

}  // namespace sluice::detail
