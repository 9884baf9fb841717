#include "sluice/runtime/tls.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>

#include "sluice/testkit/simulation.h"
#include "tests/tls_ends.h"

namespace sluice::tls_test {
namespace {

using std::chrono::days;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Simulation;

// Connects two ends over `transport` and runs a body on each.
void run_pair(Runtime& runtime, Transport& transport, const Address& address,
              const std::function<void(Connection&)>& server, const std::function<void(Connection&)>& client) {
  const auto listener = transport.listen(address);
  const auto thread = runtime.spawn("server", [&] { server(*listener->accept(never)); });
  client(*transport.connect(listener->address(), never));
  thread->join();
}

// Writes in pieces of all sizes while it reads what the other side writes.
void exchange(Runtime& runtime, Connection& connection, std::uint64_t seed, const std::string& sent,
              const std::string& expected, std::size_t largest_piece) {
  const auto writer = runtime.spawn("writer", [&] {
    Random random(seed);
    for (std::string_view left = sent; !left.empty();) {
      const std::size_t size = 1 + random.below(std::min(largest_piece, left.size()));
      connection.write(left.substr(0, size), never);
      left.remove_prefix(size);
    }
  });
  EXPECT_TRUE(read_exactly(connection, expected.size(), 1 + seed % 70'000) == expected);
  writer->join();
}

TEST(Tls, CarriesBothDirectionsAtOnce) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    Simulation sim(seed);
    const Identity identity = make_identity(sim);
    // New keys all the time in every other run.
    const TlsOptions options{.key_bytes_max = seed % 2 == 0 ? 10'000U : TlsOptions().key_bytes_max};
    Random random(seed);
    const std::string up = random_text(random, random.below(300'000));
    const std::string down = random_text(random, random.below(300'000));
    sim.run([&] {
      const auto transport = make_tls_transport(sim, sim.transport(), identity, options);
      bool ended = false;
      run_pair(
          sim, *transport, any_port,
          [&](Connection& connection) {
            exchange(sim, connection, seed, down, up, 100'000);
            ended = read_all(connection).empty();
          },
          [&](Connection& connection) {
            exchange(sim, connection, seed + 1, up, down, seed % 3 == 0 ? 50'000 : 3'000);
            connection.close();
          });
      EXPECT_TRUE(ended);
    });
  }
}

TEST(Tls, TakesTheSameDecisionsForTheSameSeed) {
  const auto steps = [](std::uint64_t seed) {
    Simulation sim(seed);
    const Identity identity = make_identity(sim);
    sim.run([&] {
      const auto transport = make_tls_transport(sim, sim.transport(), identity);
      run_pair(
          sim, *transport, any_port, [](Connection& connection) { read_all(connection); },
          [](Connection& connection) { connection.write(std::string(100'000, 'x'), never); });
    });
    return std::pair(sim.steps(), sim.clock().now());
  };
  for (std::uint64_t seed = 0; seed < 10; ++seed) EXPECT_EQ(steps(seed), steps(seed));
  EXPECT_NE(steps(1), steps(2));
}

// Whoever sees the end of the stream has all of it; a cut is an error.
TEST(Tls, CutConnectionsFailAndNeverEnd) {
  int cut = 0;
  int whole = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Simulation sim(seed, {.message_delay_max = milliseconds(50), .connection_cut = 0.01});
    const Identity identity = make_identity(sim);
    Random random(seed);
    const std::string sent = random_text(random, 50'000);
    sim.run([&] {
      const auto transport = make_tls_transport(sim, sim.transport(), identity);
      const auto listener = transport->listen(any_port);
      const auto server = sim.spawn("server", [&] {
        const auto connection = listener->accept(never);
        std::string received;
        bool ended = false;
        const std::string why = failure([&] {
          char buffer[3'000];
          while (const std::size_t count = *connection->read(buffer, never)) received.append(buffer, count);
          ended = true;
        });
        EXPECT_TRUE(sent.starts_with(received));
        EXPECT_EQ(ended, why.empty());
        EXPECT_TRUE(!ended || received == sent);
        ++(ended ? whole : cut);
      });
      failure([&] {
        const auto connection = transport->connect(listener->address(), never);
        for (std::string_view left = sent; !left.empty(); left.remove_prefix(5'000)) {
          connection->write(left.substr(0, 5'000), never);
        }
      });
      server->join();
    });
  }
  EXPECT_GT(cut, 40);
  EXPECT_GT(whole, 40);
}

TEST(Tls, AnEndWithoutTheEndOfTlsWasCutOff) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Simulation sim(seed);
    const Identity identity = make_identity(sim);
    sim.run([&] {
      const auto listener = sim.transport().listen(any_port);
      // What the client writes passes through `between`, and is at its end without a word of TLS.
      std::unique_ptr<Connection> to_client;
      const auto client = sim.spawn("client", [&] {
        const auto connection =
            make_tls_connection(sim, identity, TlsRole::client, sim.transport().connect(listener->address(), never));
        connection->write("half a message", never);
        char buffer[10];
        const std::string why = failure([&] { connection->read(buffer, never); });
        EXPECT_TRUE(holds(why, "cut off") || holds(why, "reset")) << why;
        EXPECT_EQ(failure([&] { connection->read(buffer, never); }), why);
      });
      auto below = listener->accept(never);
      Connection* const plain = below.get();
      const auto server = make_tls_connection(sim, identity, TlsRole::server, std::move(below));
      EXPECT_EQ(read_exactly(*server, 14), "half a message");
      plain->close();
      client->join();
    });
  }
}

// ---- deadlines and close ----

TEST(Tls, OneWhoSaysNothingKeepsNobodyWaitingAndIsDropped) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Simulation sim(seed);
    const Identity identity = make_identity(sim);
    sim.run([&] {
      const auto transport = make_tls_transport(sim, sim.transport(), identity);
      const auto listener = transport->listen(any_port);
      const auto silent = sim.transport().connect(listener->address(), never);
      const auto accepted = listener->accept(never);
      const Time begun = sim.clock().now();
      const auto waits = sim.spawn("waits", [&] {
        char buffer[10];
        EXPECT_TRUE(holds(failure([&] { accepted->read(buffer, never); }), "did not finish the handshake in time"));
        EXPECT_EQ(sim.clock().now(), begun + seconds(10));
      });
      const auto server = sim.spawn("server", [&] { EXPECT_EQ(read_all(*listener->accept(never)), "hello"); });
      transport->connect(listener->address(), never)->write("hello", never);
      server->join();
      EXPECT_LT(sim.clock().now(), begun + seconds(1));
      waits->join();
      char buffer[10];
      EXPECT_EQ(silent->read(buffer, never), 0U);
    });
  }
}

TEST(Tls, DeadlinesHoldInTheHandshake) {
  Simulation sim(1);
  const Identity identity = make_identity(sim);
  sim.run([&] {
    const auto listener = sim.transport().listen(any_port);
    const auto transport = make_tls_transport(sim, sim.transport(), identity);
    // The server below says nothing.
    Time deadline = sim.clock().now() + seconds(2);
    EXPECT_TRUE(holds(failure([&] { transport->connect(listener->address(), deadline); }), "the deadline passed"));
    EXPECT_EQ(sim.clock().now(), deadline);
    deadline = sim.clock().now() + seconds(10);
    EXPECT_TRUE(holds(failure([&] { transport->connect(listener->address(), never); }), "in time"));
    EXPECT_LT(sim.clock().now(), deadline + milliseconds(10));
  });
  sim.run([&] {
    const auto listener = sim.transport().listen(any_port);
    const auto silent = sim.transport().connect(listener->address(), never);
    const auto mine = make_tls_connection(sim, identity, TlsRole::server, listener->accept(never));
    char buffer[10];
    Time deadline = sim.clock().now() + seconds(1);
    EXPECT_EQ(mine->read(buffer, deadline), std::nullopt);
    EXPECT_EQ(sim.clock().now(), deadline);
    deadline += seconds(1);
    EXPECT_TRUE(holds(failure([&] { mine->write("x", deadline); }), "the deadline passed"));
    EXPECT_EQ(sim.clock().now(), deadline);
    // A reader and a writer, one of whom waits for the other.
    const auto writer = sim.spawn("writer", [&, late = deadline + seconds(1)] {
      EXPECT_TRUE(holds(failure([&] { mine->write("x", late); }), "the deadline passed"));
      EXPECT_EQ(sim.clock().now(), late);
    });
    EXPECT_EQ(mine->read(buffer, deadline + seconds(2)), std::nullopt);
    EXPECT_EQ(sim.clock().now(), deadline + seconds(2));
    writer->join();
  });
}

// One byte a second keeps no handshake alive.
TEST(Tls, ASlowHandshakeIsCutOff) {
  Simulation sim(1);
  const Identity identity = make_identity(sim);
  sim.run([&] {
    const auto listener = sim.transport().listen(any_port);
    const auto slow = sim.transport().connect(listener->address(), never);
    const auto mine = make_tls_connection(sim, identity, TlsRole::server, listener->accept(never));
    const Time begun = sim.clock().now();
    const auto drips = sim.spawn("drips", [&] {
      const std::string beginning("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11);
      failure([&] {
        slow->write(beginning, never);
        while (true) {
          sim.wait_for(seconds(1));
          slow->write("x", never);
        }
      });
    });
    char buffer[10];
    EXPECT_TRUE(holds(failure([&] { mine->read(buffer, never); }), "in time"));
    EXPECT_LE(sim.clock().now(), begun + seconds(11));
    mine->close();
    drips->join();
  });
}

TEST(Tls, DeadlinesHoldAfterTheHandshake) {
  Simulation sim(1);
  const Identity identity = make_identity(sim);
  sim.run([&] {
    const auto transport = make_tls_transport(sim, sim.transport(), identity);
    run_pair(
        sim, *transport, any_port,
        [&](Connection& connection) {
          char buffer[10];
          connection.read(buffer, never);
          sim.wait_for(seconds(10));
        },
        [&](Connection& connection) {
          char buffer[10];
          Time deadline = sim.clock().now() + seconds(1);
          EXPECT_EQ(connection.read(buffer, deadline), std::nullopt);
          EXPECT_EQ(sim.clock().now(), deadline);
          deadline += seconds(1);
          EXPECT_FALSE(failure([&] { connection.write(std::string(10 << 20, 'x'), deadline); }).empty());
          EXPECT_EQ(sim.clock().now(), deadline);
          // Part of a record may be out.
          EXPECT_TRUE(holds(failure([&] { connection.write("x", never); }), "an earlier write has failed"));
        });
  });
}

TEST(Tls, CloseWakesWhoReadsWritesOrShakesHands) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    Simulation sim(seed);
    const Identity identity = make_identity(sim);
    sim.run([&] {
      const auto transport = make_tls_transport(sim, sim.transport(), identity);
      const auto below = sim.transport().listen(any_port);
      const Time begun = sim.clock().now();
      const auto expect_closed = [](const std::function<void()>& call) {
        EXPECT_TRUE(holds(failure(call), "closed on this side"));
      };
      const auto silent = sim.transport().connect(below->address(), never);
      const auto server = make_tls_connection(sim, identity, TlsRole::server, below->accept(never));
      char buffer[10];
      const auto reads = sim.spawn("reads", [&] { expect_closed([&] { server->read(buffer, never); }); });
      const auto writes = sim.spawn("writes", [&] { expect_closed([&] { server->write("x", never); }); });
      const auto connector = transport->connector(below->address());
      const auto connects = sim.spawn("connects", [&] { expect_closed([&] { connector->connect(never); }); });
      if (seed % 2 == 0) sim.wait_for(milliseconds(100));
      // Before it began to connect the words are those of the connection below.
      if (seed % 2 == 0) connector->close();
      server->close();
      server->close();
      reads->join();
      writes->join();
      if (seed % 2 != 0) {
        sim.wait_for(milliseconds(100));
        connector->close();
      }
      connects->join();
      EXPECT_LT(sim.clock().now(), begun + seconds(1));
    });
  }
}

TEST(Tls, CloseWakesAReaderAndAWriterOfAnOpenConnection) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    Simulation sim(seed);
    const Identity identity = make_identity(sim);
    sim.run([&] {
      const auto transport = make_tls_transport(sim, sim.transport(), identity);
      run_pair(
          sim, *transport, any_port,
          [&](Connection& connection) {
            char buffer[10];
            connection.read(buffer, never);
            sim.wait_for(seconds(5));
            // The writer was stopped in the middle of a record.
            const std::string why = failure([&] { read_all(connection); });
            EXPECT_EQ(why.empty(), seed % 2 != 0) << why;
          },
          [&](Connection& connection) {
            connection.write("0123456789", never);
            char buffer[10];
            const auto reads = sim.spawn("reads", [&] {
              EXPECT_TRUE(holds(failure([&] { connection.read(buffer, never); }), "closed on this side"));
            });
            const auto writes = sim.spawn("writes", [&] {
              if (seed % 2 != 0) return;
              EXPECT_TRUE(
                  holds(failure([&] { connection.write(std::string(10 << 20, 'x'), never); }), "closed on this side"));
            });
            sim.wait_for(seconds(1));
            connection.close();
            reads->join();
            writes->join();
            EXPECT_TRUE(holds(failure([&] { connection.write("x", never); }), "closed on this side"));
          });
    });
  }
}

// ---- over sockets, between threads ----

class TlsSocketTest : public ::testing::Test {
 protected:
  TlsSocketTest() {
    std::string pattern = ::testing::TempDir() + "/sluice-tls-XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
  }
  ~TlsSocketTest() override { runtime_.files().remove_all(directory_); }

  Runtime& runtime_ = system_runtime();
  std::string directory_;
};

TEST_F(TlsSocketTest, BytesGoBothWaysAtOnce) {
  const Identity identity = make_identity(runtime_, directory_);
  const auto transport = make_tls_transport(runtime_, runtime_.transport(), identity, {.key_bytes_max = 1 << 20});
  Random random(1);
  const std::string up = random_text(random, 8 << 20);
  const std::string down = random_text(random, 8 << 20);
  for (const Address& address :
       {Address::tcp("127.0.0.1", 0), Address{"0.0.0.0:0"}, Address{"unix:" + directory_ + "/s"}}) {
    const auto listener = transport->listen(address);
    std::string to = listener->address().text;
    if (to.starts_with("0.0.0.0")) to.replace(0, 7, "127.0.0.1");
    const auto server = runtime_.spawn("server", [&] {
      const auto connection = listener->accept(never);
      exchange(runtime_, *connection, 60'000, down, up, 1 << 20);
      EXPECT_EQ(read_all(*connection), "");
    });
    const auto connection = transport->connect({to}, never);
    exchange(runtime_, *connection, 5'000, up, down, 300'000);
    connection->close();
    server->join();
  }
}

// The one that reads is slow, and the other has closed: all that it wrote arrives, and the end with it.
TEST_F(TlsSocketTest, WhatWasWrittenBeforeCloseArrives) {
  const Identity identity = make_identity(runtime_, directory_);
  const auto transport = make_tls_transport(runtime_, runtime_.transport(), identity);
  const std::string text(3 << 20, 'x');
  for (int i = 0; i < 20; ++i) {
    run_pair(
        runtime_, *transport, any_port,
        [&](Connection& connection) {
          char buffer[1'000];
          std::size_t got = 0;
          while (const std::size_t count = *connection.read(buffer, never)) got += count;
          EXPECT_EQ(got, text.size());
        },
        [&](Connection& connection) { connection.write(text, never); });
  }
}

TEST_F(TlsSocketTest, CloseFromAnotherThreadWakesTheReader) {
  const Identity identity = make_identity(runtime_, directory_);
  const auto transport = make_tls_transport(runtime_, runtime_.transport(), identity);
  run_pair(
      runtime_, *transport, any_port, [](Connection& connection) { EXPECT_EQ(read_all(connection), "x"); },
      [&](Connection& connection) {
        connection.write("x", never);
        const auto reader = runtime_.spawn("reader", [&] {
          char buffer[10];
          EXPECT_TRUE(holds(failure([&] { connection.read(buffer, never); }), "closed on this side"));
        });
        connection.close();
        reader->join();
      });
}

}  // namespace
}  // namespace sluice::tls_test
