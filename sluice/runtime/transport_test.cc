#include "sluice/runtime/transport.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/posix.h"
#include "sluice/runtime/runtime.h"
#include "tests/failure.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using testing::failure;

const Time never = Time::max();
const Time past = Time(1s);

// Two connected ends.
struct Pair {
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Connection> client;
  std::unique_ptr<Connection> server;
};

// Listens and never accepts, with a backlog that is full: who connects waits for an answer.
class Blackhole {
 public:
  explicit Blackhole(const sockaddr& address, socklen_t length) : listener_(make_socket(address.sa_family)) {
    EXPECT_EQ(::bind(listener_.get(), &address, length), 0);
    EXPECT_EQ(::listen(listener_.get(), 0), 0);
    EXPECT_EQ(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&bound_), &bound_length_), 0);
    // Loopback answers within the call, if at all.
    bool full = false;
    while (!full) {
      waiting_.push_back(make_socket(address.sa_family));
      EXPECT_EQ(::fcntl(waiting_.back().get(), F_SETFL, O_NONBLOCK), 0);
      const int status = ::connect(waiting_.back().get(), reinterpret_cast<sockaddr*>(&bound_), bound_length_);
      full = status < 0 && (errno == EAGAIN || !is_connected(waiting_.back().get()));
    }
  }
  static Blackhole tcp() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return Blackhole(reinterpret_cast<const sockaddr&>(address), sizeof address);
  }
  static Blackhole unix_socket(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path.c_str());
    return Blackhole(reinterpret_cast<const sockaddr&>(address), sizeof address);
  }
  std::uint16_t port() const {
    sockaddr_in address;
    std::memcpy(&address, &bound_, sizeof address);
    return ntohs(address.sin_port);
  }
  // Sockets that have asked the port and had no answer, as the kernel tells them.
  int connecting() const {
    char peer[32];
    std::snprintf(peer, sizeof peer, "0100007F:%04X 02 ", port());
    const std::string table = read_file(system_runtime().files(), "/proc/net/tcp");
    int count = 0;
    for (std::size_t at = table.find(peer); at != std::string::npos; at = table.find(peer, at + 1)) ++count;
    return count;
  }

 private:
  static detail::Descriptor make_socket(int family) { return detail::Descriptor(::socket(family, SOCK_STREAM, 0)); }
  static bool is_connected(int socket) {
    sockaddr_storage peer;
    socklen_t length = sizeof peer;
    return ::getpeername(socket, reinterpret_cast<sockaddr*>(&peer), &length) == 0;
  }

  const detail::Descriptor listener_;
  sockaddr_storage bound_{};
  socklen_t bound_length_ = sizeof bound_;
  std::vector<detail::Descriptor> waiting_;
};

class TransportTest : public ::testing::Test {
 protected:
  TransportTest() {
    std::string pattern = ::testing::TempDir() + "/sluice-transport-XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
  }
  ~TransportTest() override { system_runtime().files().remove_all(directory_); }

  std::string socket_path() const { return directory_ + "/s"; }
  Address unix_address() const { return {"unix:" + socket_path()}; }

  Pair connected(const Address& address) {
    Pair pair;
    pair.listener = transport_.listen(address);
    pair.client = transport_.connect(pair.listener->address(), never);
    pair.server = pair.listener->accept(never);
    return pair;
  }

  static std::string read_some(Connection& connection) {
    std::string buffer(100, '\0');
    buffer.resize(connection.read(buffer, never).value());
    return buffer;
  }

  static std::string read_all(Connection& connection) {
    std::string all;
    for (std::string part = read_some(connection); !part.empty(); part = read_some(connection)) all += part;
    return all;
  }

  static void expect_round_trip(Pair& pair) {
    pair.client->write(std::string("ping"), never);
    EXPECT_EQ(read_some(*pair.server), "ping");
    pair.server->write(std::string("pong"), never);
    EXPECT_EQ(read_some(*pair.client), "pong");
  }

  // Calls `blocked` on a thread and `close` here. Whichever comes first, the thread must end; a run under load
  // sees both orders.
  static void expect_woken(std::function<void()> blocked, std::function<void()> close) {
    const auto thread = system_runtime().spawn("blocked", std::move(blocked));
    close();
    thread->join();
  }

  Transport& transport_ = system_runtime().transport();
  std::string directory_;
};

TEST_F(TransportTest, BytesGoBothWaysOverTcp) {
  Pair pair = connected(Address::tcp("127.0.0.1", 0));
  expect_round_trip(pair);
}

TEST_F(TransportTest, BytesGoBothWaysOverAUnixSocket) {
  Pair pair = connected(unix_address());
  expect_round_trip(pair);
}

TEST_F(TransportTest, BytesGoBothWaysOverIpv6) {
  std::unique_ptr<Listener> listener;
  try {
    listener = transport_.listen({"[::1]:0"});
  } catch (const Error& error) {
    GTEST_SKIP() << "this machine has no IPv6: " << error.what();
  }
  EXPECT_TRUE(listener->address().text.starts_with("[::1]:")) << listener->address().text;
  Pair pair;
  pair.client = transport_.connect(listener->address(), never);
  pair.server = listener->accept(never);
  expect_round_trip(pair);
}

TEST_F(TransportTest, NamesAreLookedUp) {
  const auto listener = transport_.listen({"localhost:0"});
  const std::string& bound = listener->address().text;
  Pair pair;
  pair.client = transport_.connect({"localhost" + bound.substr(bound.find_last_of(':'))}, never);
  pair.server = listener->accept(never);
  expect_round_trip(pair);
}

TEST_F(TransportTest, AnEndKnowsItsPeer) {
  Pair tcp = connected(Address::tcp("127.0.0.1", 0));
  EXPECT_EQ(tcp.client->peer(), tcp.listener->address().text);
  EXPECT_TRUE(tcp.server->peer().starts_with("127.0.0.1:")) << tcp.server->peer();
  Pair local = connected(unix_address());
  EXPECT_EQ(local.client->peer(), unix_address().text);
}

TEST_F(TransportTest, MoreThanTheSystemBuffersArrivesWhole) {
  Pair pair = connected(Address::tcp("127.0.0.1", 0));
  std::string sent(16 << 20, 'x');
  for (std::size_t i = 0; i < sent.size(); i += 997) sent[i] = static_cast<char>(i);
  const auto writer = system_runtime().spawn("writer", [&] {
    pair.client->write(sent, never);
    pair.client->close();
  });
  std::string received(sent.size(), '\0');
  std::size_t count = 0;
  while (count < received.size()) {
    const std::size_t part = pair.server->read(std::span(received).subspan(count), never).value();
    if (part == 0) break;
    count += part;
  }
  writer->join();
  EXPECT_EQ(count, sent.size());
  EXPECT_EQ(received, sent);
}

TEST_F(TransportTest, TheEndOfTheStreamReadsAsZero) {
  Pair pair = connected(Address::tcp("127.0.0.1", 0));
  pair.client->write(std::string("last"), never);
  pair.client.reset();
  EXPECT_EQ(read_all(*pair.server), "last");
}

TEST_F(TransportTest, AReadPastItsDeadlineReturnsNothing) {
  Pair pair = connected(Address::tcp("127.0.0.1", 0));
  std::string buffer(10, '\0');
  EXPECT_EQ(pair.server->read(buffer, past), std::nullopt);
}

TEST_F(TransportTest, AWritePastItsDeadlineFails) {
  Pair pair = connected(unix_address());
  // More than any socket buffers while nobody reads.
  const std::string much(64 << 20, 'x');
  EXPECT_NE(failure(Code::network_failed, [&] { pair.client->write(much, past); }).find("deadline"), std::string::npos);
}

TEST_F(TransportTest, AnAcceptPastItsDeadlineReturnsNothing) {
  const auto listener = transport_.listen(Address::tcp("127.0.0.1", 0));
  EXPECT_EQ(listener->accept(past), nullptr);
}

TEST_F(TransportTest, CloseWakesABlockedReader) {
  for (const Address& address : {Address::tcp("127.0.0.1", 0), unix_address()}) {
    Pair pair = connected(address);
    expect_woken(
        [&] {
          EXPECT_NE(failure(Code::network_failed, [&] { read_some(*pair.server); }).find("closed on this side"),
                    std::string::npos);
        },
        [&] { pair.server->close(); });
  }
}

TEST_F(TransportTest, CloseWakesABlockedWriter) {
  for (const Address& address : {Address::tcp("127.0.0.1", 0), unix_address()}) {
    Pair pair = connected(address);
    const std::string much(64 << 20, 'x');
    expect_woken(
        [&] {
          EXPECT_NE(failure(Code::network_failed, [&] { pair.server->write(much, never); }).find("closed on this side"),
                    std::string::npos);
        },
        [&] { pair.server->close(); });
  }
}

TEST_F(TransportTest, CloseWakesABlockedAccept) {
  for (const Address& address : {Address::tcp("127.0.0.1", 0), unix_address()}) {
    const auto listener = transport_.listen(address);
    expect_woken([&] { EXPECT_EQ(listener->accept(never), nullptr); }, [&] { listener->close(); });
  }
}

TEST_F(TransportTest, CloseMayBeRepeated) {
  Pair pair = connected(Address::tcp("127.0.0.1", 0));
  for (int i = 0; i < 2; ++i) {
    pair.client->close();
    pair.listener->close();
  }
  EXPECT_EQ(read_some(*pair.server), "");
}

TEST_F(TransportTest, WritingToAPeerThatIsGoneFailsWithoutASignal) {
  Pair pair = connected(unix_address());
  pair.server.reset();
  failure(Code::network_failed, [&] { pair.client->write(std::string("x"), never); });
}

TEST_F(TransportTest, ARefusedConnectionIsAnError) {
  const auto listener = transport_.listen(Address::tcp("127.0.0.1", 0));
  const Address address = listener->address();
  listener->close();
  EXPECT_NE(failure(Code::network_failed, [&] { transport_.connect(address, never); }).find("refused"),
            std::string::npos);
}

TEST_F(TransportTest, AMissingUnixSocketIsAnError) {
  failure(Code::network_failed, [&] { transport_.connect(unix_address(), never); });
}

TEST_F(TransportTest, AnUnknownHostIsAnError) {
  // RFC 6761: names below .invalid never exist. The deadline is past, so no name server is waited for.
  failure(Code::network_failed, [&] { transport_.connect({"nobody.invalid:1"}, past); });
}

// Without an end to the wait these tests would not end either.
TEST_F(TransportTest, ClosingAConnectorEndsTheWaitForAnAnswer) {
  const Blackhole hole = Blackhole::tcp();
  const int others = hole.connecting();
  const auto connector = transport_.connector(Address::tcp("127.0.0.1", hole.port()));
  std::string why;
  const auto thread = system_runtime().spawn(
      "connects", [&] { why = failure(Code::network_failed, [&] { connector->connect(never); }); });
  while (hole.connecting() <= others) system_runtime().wait_for(100us);
  connector->close();
  thread->join();
  EXPECT_NE(why.find("given up on this side"), std::string::npos) << why;
  EXPECT_LE(hole.connecting(), others);  // the others may end
}

TEST_F(TransportTest, ClosingAConnectorEndsTheWaitForRoomInTheBacklogOfAUnixSocket) {
  const Blackhole hole = Blackhole::unix_socket(socket_path());
  for (int round = 0; round < 10; ++round) {
    const auto connector = transport_.connector(unix_address());
    expect_woken([&] { failure(Code::network_failed, [&] { connector->connect(never); }); },
                 [&] {
                   if (round % 2 == 0) system_runtime().wait_for(1ms);
                   connector->close();
                 });
  }
}

TEST_F(TransportTest, ClosingAConnectorEndsTheLookUpOfAName) {
  for (int round = 0; round < 10; ++round) {
    const auto connector = transport_.connector({"nobody.invalid:1"});
    expect_woken([&] { failure(Code::network_failed, [&] { connector->connect(never); }); },
                 [&] { connector->close(); });
  }
}

TEST_F(TransportTest, AClosedConnectorDoesNotConnect) {
  const auto listener = transport_.listen(Address::tcp("127.0.0.1", 0));
  const auto local = transport_.listen(unix_address());
  for (const Address& address : {listener->address(), local->address()}) {
    const auto connector = transport_.connector(address);
    connector->close();
    connector->close();
    EXPECT_NE(failure(Code::network_failed, [&] { connector->connect(never); }).find("given up on this side"),
              std::string::npos);
  }
  EXPECT_EQ(listener->accept(past), nullptr);
}

TEST_F(TransportTest, AClosedConnectorLeavesItsConnection) {
  Pair pair;
  pair.listener = transport_.listen(Address::tcp("127.0.0.1", 0));
  const auto connector = transport_.connector(pair.listener->address());
  pair.client = connector->connect(never);
  connector->close();
  pair.server = pair.listener->accept(never);
  expect_round_trip(pair);
}

TEST_F(TransportTest, AConnectionThatIsNotAnsweredInTimeIsAnError) {
  const Blackhole hole = Blackhole::tcp();
  const Address address = Address::tcp("127.0.0.1", hole.port());
  EXPECT_NE(failure(Code::network_failed, [&] { transport_.connect(address, past); }).find("timed out"),
            std::string::npos);
}

TEST_F(TransportTest, ListeningBeyondLoopbackIsRefused) {
  for (const char* text : {"0.0.0.0:0", "[::]:0", ":0", "*:0", "192.0.2.1:0", "[::ffff:192.0.2.1]:0"}) {
    failure(Code::not_listening_address, [&] { transport_.listen({text}); });
  }
}

// An address of this machine that is not of loopback, or 0.
in_addr_t own_address() {
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return 0;
  in_addr_t found = 0;
  for (const ifaddrs* at = all; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || at->ifa_addr->sa_family != AF_INET) continue;
    sockaddr_in address;
    std::memcpy(&address, at->ifa_addr, sizeof address);
    if (ntohl(address.sin_addr.s_addr) >> 24 != 127) found = address.sin_addr.s_addr;
  }
  ::freeifaddrs(all);
  return found;
}

TEST_F(TransportTest, WhoSaysSoListensOnAllAddresses) {
  const auto listener = transport_.listen_anywhere({"0.0.0.0:0"});
  const std::string bound = listener->address().text;
  EXPECT_TRUE(bound.starts_with("0.0.0.0:")) << bound;
  const std::string port = bound.substr(bound.rfind(':'));
  Pair pair{nullptr, transport_.connect({"127.0.0.1" + port}, never), listener->accept(never)};
  expect_round_trip(pair);
}

TEST_F(TransportTest, WhoSaysSoListensOnAllAddressesOfIpv6) {
  std::unique_ptr<Listener> listener;
  try {
    listener = transport_.listen_anywhere({"[::]:0"});
  } catch (const Error& error) {
    GTEST_SKIP() << "this machine has no IPv6: " << error.what();
  }
  const std::string port = listener->address().text.substr(4);
  Pair pair{nullptr, transport_.connect({"[::1]" + port}, never), listener->accept(never)};
  expect_round_trip(pair);
}

TEST_F(TransportTest, WhoSaysSoListensOnAnAddressOfTheHost) {
  const in_addr_t own = own_address();
  if (own == 0) GTEST_SKIP() << "this machine has no address but that of loopback";
  char text[INET_ADDRSTRLEN] = "";
  ::inet_ntop(AF_INET, &own, text, sizeof text);
  failure(Code::not_listening_address, [&] { transport_.listen(Address::tcp(text, 0)); });
  const auto listener = transport_.listen_anywhere(Address::tcp(text, 0));
  Pair pair{nullptr, transport_.connect(listener->address(), never), listener->accept(never)};
  expect_round_trip(pair);
  failure(Code::network_failed, [&] { transport_.listen_anywhere({":0"}); });
  EXPECT_NE(transport_.listen_anywhere(unix_address()), nullptr);
}

TEST_F(TransportTest, LastWordsGoBeforeTheEnd) {
  Pair pair = connected(Address::tcp("127.0.0.1", 0));
  pair.client->close_with("bye");
  pair.client->close_with("nobody hears it");
  EXPECT_EQ(read_all(*pair.server), "bye");
}

TEST_F(TransportTest, LastWordsThatDoNotFitGoByAndBy) {
  for (const Address& address : {Address::tcp("127.0.0.1", 0), unix_address()}) {
    Pair pair = connected(address);
    failure(Code::network_failed, [&] { pair.client->write(std::string(64 << 20, 'x'), past); });
    const auto reader =
        system_runtime().spawn("reads", [&] { failure(Code::network_failed, [&] { read_some(*pair.client); }); });
    pair.client->close_with("bye");
    reader->join();
    pair.client.reset();
    EXPECT_TRUE(read_all(*pair.server).ends_with("xbye"));
  }
}

TEST_F(TransportTest, AnAddressThatCannotBeUnderstoodIsABadArgument) {
  for (const char* text :
       {"", "localhost", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "::1:80", "unix:"}) {
    failure(Code::bad_argument, [&] { transport_.connect({text}, never); });
    failure(Code::bad_argument, [&] { transport_.listen({text}); });
  }
  failure(Code::bad_argument, [&] { transport_.listen({"unix:/" + std::string(200, 'x')}); });
}

TEST_F(TransportTest, AnAddressInUseIsAnError) {
  const auto tcp = transport_.listen(Address::tcp("127.0.0.1", 0));
  failure(Code::network_failed, [&] { transport_.listen(tcp->address()); });
  const auto local = transport_.listen(unix_address());
  failure(Code::network_failed, [&] { transport_.listen(unix_address()); });
}

TEST_F(TransportTest, AUnixSocketIsForItsOwnerOnly) {
  const auto listener = transport_.listen(unix_address());
  struct stat data{};
  ASSERT_EQ(::stat(socket_path().c_str(), &data), 0);
  EXPECT_EQ(data.st_mode & 07777, 0600u);
}

TEST_F(TransportTest, AClosedUnixListenerRemovesItsFile) {
  transport_.listen(unix_address())->close();
  EXPECT_EQ(system_runtime().files().stat(socket_path()), std::nullopt);
}

TEST_F(TransportTest, AnAbandonedUnixSocketIsReplaced) {
  const auto dead = transport_.listen(unix_address());
  // As after kill -9: nobody listens, and the file is still there under its name.
  ASSERT_EQ(::rename(socket_path().c_str(), (socket_path() + "2").c_str()), 0);
  dead->close();
  ASSERT_EQ(::rename((socket_path() + "2").c_str(), socket_path().c_str()), 0);
  Pair pair = connected(unix_address());
  expect_round_trip(pair);
}

TEST_F(TransportTest, AFileInTheWayOfAUnixSocketIsKept) {
  system_runtime().files().create(socket_path())->append(std::string("precious"));
  failure(Code::network_failed, [&] { transport_.listen(unix_address()); });
  EXPECT_EQ(read_file(system_runtime().files(), socket_path()), "precious");
}

}  // namespace
}  // namespace sluice
