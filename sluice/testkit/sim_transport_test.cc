#include <gtest/gtest.h>

#include <set>
#include <string>

#include "sluice/runtime/errors.h"
#include "sluice/testkit/simulation.h"

namespace sluice::testing {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Time never = Time::max();

Code code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return Code{};
}

std::string read_all(Connection& connection, std::size_t piece = 1'000) {
  std::string all;
  std::string buffer(piece, '\0');
  while (const std::size_t count = *connection.read(buffer, never)) all.append(buffer, 0, count);
  return all;
}

// Connects two ends and runs a body on each.
void run_pair(Simulation& sim, const std::function<void(Connection&)>& server,
              const std::function<void(Connection&)>& client) {
  sim.run([&] {
    const auto listener = sim.transport().listen(Address::tcp("127.0.0.1", 0));
    const auto thread = sim.spawn("server", [&] { server(*listener->accept(never)); });
    client(*sim.transport().connect(listener->address(), never));
    thread->join();
  });
}

TEST(SimTransport, DeliversAllBytesInOrderWhateverTheSplit) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Simulation sim(seed);
    std::string sent;
    std::string received;
    run_pair(
        sim, [&](Connection& connection) { received = read_all(connection, 1 + sim.random().below(5'000)); },
        [&](Connection& connection) {
          Random random(seed);
          for (int i = 0; i < 50; ++i) {
            std::string bytes(random.below(20'000), '\0');
            for (char& byte : bytes) byte = static_cast<char>(random.next());
            sent += bytes;
            connection.write(bytes, never);
          }
          connection.close();
        });
    ASSERT_EQ(received.size(), sent.size());
    ASSERT_TRUE(received == sent);
  }
}

TEST(SimTransport, CarriesBothDirectionsAndSplitsThem) {
  std::set<std::size_t> sizes;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Simulation sim(seed);
    run_pair(
        sim,
        [&](Connection& connection) {
          char buffer[100];
          std::size_t got = 0;
          while (got < 10) {
            const std::size_t count = *connection.read(buffer, never);
            sizes.insert(count);
            got += count;
          }
          connection.write(std::string("pong"), never);
          connection.close();
        },
        [&](Connection& connection) {
          connection.write(std::string("0123456789"), never);
          EXPECT_EQ(read_all(connection), "pong");
        });
  }
  EXPECT_GE(sizes.size(), 7U);
}

TEST(SimTransport, TakesVirtualTime) {
  Simulation sim(1, {.message_delay_max = hours(1)});
  const Time start = sim.clock().now();
  run_pair(
      sim, [](Connection& connection) { EXPECT_EQ(read_all(connection), "x"); },
      [](Connection& connection) { connection.write(std::string("x"), never); });
  EXPECT_GT(sim.clock().now(), start);
  EXPECT_LT(sim.clock().now(), start + hours(5));
}

TEST(SimTransport, CallsEndAtTheirDeadline) {
  Simulation sim(2);
  sim.run([&] {
    const auto listener = sim.transport().listen(Address::tcp("localhost", 7777));
    EXPECT_EQ(listener->address().text, "127.0.0.1:7777");
    Time deadline = sim.clock().now() + seconds(1);
    EXPECT_EQ(listener->accept(deadline), nullptr);
    EXPECT_EQ(sim.clock().now(), deadline);
    const auto near_end = sim.transport().connect(listener->address(), never);
    const auto far_end = listener->accept(never);
    char buffer[10];
    deadline = sim.clock().now() + seconds(1);
    EXPECT_EQ(near_end->read(buffer, deadline), std::nullopt);
    EXPECT_EQ(sim.clock().now(), deadline);
    // The peer does not read, so there is room for so much only.
    deadline += seconds(1);
    EXPECT_EQ(code_of([&] { near_end->write(std::string(10 << 20, 'x'), deadline); }), Code::network_failed);
    EXPECT_EQ(sim.clock().now(), deadline);
    EXPECT_EQ(code_of([&] { sim.transport().connect(listener->address(), sim.clock().now()); }), Code::network_failed);
  });
}

TEST(SimTransport, ClosingAConnectorEndsTheWaitForAnAnswer) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Simulation sim(seed, {.message_delay_max = std::chrono::hours(1)});
    sim.run([&] {
      const auto listener = sim.transport().listen(Address::tcp("127.0.0.1", 0));
      const auto connector = sim.transport().connector(listener->address());
      const Time begun = sim.clock().now();
      const auto thread =
          sim.spawn("connects", [&] { EXPECT_EQ(code_of([&] { connector->connect(never); }), Code::network_failed); });
      if (seed % 2 == 0) sim.wait_for(std::chrono::milliseconds(1));
      connector->close();
      connector->close();
      thread->join();
      EXPECT_LT(sim.clock().now() - begun, seconds(1));
    });
  }
}

TEST(SimTransport, CloseWakesBlockedCallsAndEndsBothDirections) {
  Simulation sim(3);
  sim.run([&] {
    const auto listener = sim.transport().listen({"unix:/run/engine"});
    EXPECT_EQ(listener->address().text, "unix:/run/engine");
    const auto near_end = sim.transport().connect(listener->address(), never);
    const auto far_end = listener->accept(never);
    char buffer[10];
    const auto reader =
        sim.spawn("reader", [&] { EXPECT_EQ(code_of([&] { near_end->read(buffer, never); }), Code::network_failed); });
    const auto acceptor = sim.spawn("acceptor", [&] { EXPECT_EQ(listener->accept(never), nullptr); });
    sim.wait_for(seconds(1));
    near_end->close();
    near_end->close();
    listener->close();
    reader->join();
    acceptor->join();
    EXPECT_EQ(code_of([&] { near_end->write(std::string("x"), never); }), Code::network_failed);
    EXPECT_EQ(far_end->read(buffer, never), 0U);
    // The first write may seem to succeed, as with TCP.
    EXPECT_EQ(code_of([&] {
                far_end->write(std::string("x"), never);
                far_end->write(std::string("x"), never);
              }),
              Code::network_failed);
    EXPECT_EQ(code_of([&] { sim.transport().connect(listener->address(), never); }), Code::network_failed);
  });
}

TEST(SimTransport, LastWordsGoBeforeTheEnd) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Simulation sim(seed);
    run_pair(
        sim,
        [&](Connection& connection) {
          sim.wait_for(seconds(1));
          EXPECT_TRUE(read_all(connection).ends_with("bye"));
        },
        [&](Connection& connection) {
          connection.write("text", never);
          if (seed % 2 == 1) {
            EXPECT_EQ(code_of([&] { connection.write(std::string(10 << 20, 'x'), sim.clock().now()); }),
                      Code::network_failed);
          }
          connection.close_with("bye");
          connection.close_with("nobody hears it");
        });
  }
}

TEST(SimTransport, RefusesWhatTheSystemRefuses) {
  Simulation sim(4);
  sim.run([&] {
    Transport& transport = sim.transport();
    EXPECT_EQ(code_of([&] { transport.listen(Address::tcp("0.0.0.0", 1)); }), Code::not_listening_address);
    EXPECT_EQ(code_of([&] { transport.listen({"nonsense"}); }), Code::bad_argument);
    EXPECT_EQ(code_of([&] { transport.connect({"127.0.0.1:99999"}, never); }), Code::bad_argument);
    EXPECT_EQ(code_of([&] { transport.connect(Address::tcp("example.org", 1), never); }), Code::network_failed);
    EXPECT_EQ(code_of([&] { transport.connect(Address::tcp("127.0.0.1", 1), never); }), Code::network_failed);
    const auto listener = transport.listen(Address::tcp("127.0.0.1", 1));
    EXPECT_EQ(code_of([&] { transport.listen(Address::tcp("localhost", 1)); }), Code::network_failed);
    listener->close();
    EXPECT_NE(transport.listen(Address::tcp("localhost", 1)), nullptr);
  });
}

TEST(SimTransport, CutConnectionsFailOnBothEnds) {
  int cut = 0;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Simulation sim(seed, {.connection_cut = 0.02});
    Code at_server{};
    Code at_client{};
    std::string received;
    run_pair(
        sim,
        [&](Connection& connection) {
          at_server = code_of([&] {
            char buffer[10];
            while (const std::size_t count = *connection.read(buffer, never)) received.append(buffer, count);
          });
        },
        [&](Connection& connection) {
          at_client = code_of([&] {
            for (int i = 0; i < 20; ++i) connection.write(std::string("0123456789"), never);
            connection.close();
          });
        });
    const std::string sent = [] {
      std::string text;
      for (int i = 0; i < 20; ++i) text += "0123456789";
      return text;
    }();
    ASSERT_TRUE(sent.starts_with(received));
    if (at_server == Code::network_failed) {
      ++cut;
    } else {
      // Whoever ends without an error has all.
      ASSERT_EQ(at_client, Code{});
      ASSERT_EQ(received, sent);
    }
  }
  EXPECT_GT(cut, 10);
  EXPECT_LT(cut, 90);
}

TEST(SimTransport, ConnectionsDieWithTheirProcess) {
  Simulation sim(5);
  std::unique_ptr<Connection> connection;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Thread> thread;
  sim.crash_after(30);
  EXPECT_THROW(sim.run([&] {
    listener = sim.transport().listen(Address::tcp("127.0.0.1", 7));
    connection = sim.transport().connect(listener->address(), never);
    char buffer[10];
    while (true) connection->read(buffer, sim.clock().now() + milliseconds(1));
  }),
               SimulatedCrash);
  sim.run([&] {
    char buffer[10];
    EXPECT_EQ(code_of([&] { connection->read(buffer, never); }), Code::network_failed);
    EXPECT_EQ(listener->accept(never), nullptr);
    EXPECT_NE(sim.transport().listen(Address::tcp("127.0.0.1", 7)), nullptr);
  });
}

TEST(SimTransport, IsTheSameForTheSameSeed) {
  const auto hash = [](std::uint64_t seed) {
    Simulation sim(seed);
    run_pair(
        sim, [](Connection& connection) { read_all(connection, 10); },
        [](Connection& connection) { connection.write(std::string(1'000, 'x'), never); });
    return sim.trace_hash();
  };
  EXPECT_EQ(hash(1), hash(1));
  EXPECT_NE(hash(1), hash(2));
}

}  // namespace
}  // namespace sluice::testing
