// Who is let in by TLS and who is not, and with which words.
#include <gtest/gtest.h>
#include <openssl/err.h>

#include <functional>
#include <string>
#include <utility>

#include "sluice/runtime/openssl.h"
#include "sluice/runtime/tls.h"
#include "sluice/testkit/simulation.h"
#include "tests/tls_ends.h"

namespace sluice::tls_test {
namespace {

using std::chrono::days;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Simulation;

// ---- who is let in ----

struct Outcome {
  std::string at_client;
  std::string at_server;
};

// What both ends say when a client with one identity meets a server with the other.
Outcome meet(Simulation& sim, const Identity& client_identity, const Identity& server_identity) {
  Outcome outcome;
  const auto listener = make_tls_transport(sim, sim.transport(), server_identity)->listen(any_port);
  const auto server = sim.spawn("server", [&] {
    outcome.at_server = failure([&] {
      const auto connection = listener->accept(never);
      read_all(*connection);
    });
  });
  outcome.at_client = failure([&] {
    const auto transport = make_tls_transport(sim, sim.transport(), client_identity);
    const auto connection = transport->connect(listener->address(), never);
    char buffer[10];
    connection->read(buffer, never);
  });
  server->join();
  return outcome;
}

TEST(TlsPeers, OfAnotherAuthorityIsRefused) {
  bool client_learns = false;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Simulation sim(seed);
    const Identity ours = make_identity(sim, "/a");
    const Identity theirs = make_identity(sim, "/b");
    sim.run([&] {
      EXPECT_TRUE(holds(meet(sim, theirs, ours).at_client, "the peer's certificate is of another authority"));
    });
    // A server of our authority that takes both, so that the client's certificate is what is refused.
    const Certificate authority{read_file(sim.files(), "/a/ca.pem"), ""};
    const Certificate both{authority.certificate + read_file(sim.files(), "/b/ca.pem"), ""};
    const Certificate stranger{read_file(sim.files(), "/b/node.pem"), read_private_key(sim.files(), "/b/node.key")};
    const Identity trusting = identity_of(sim, both, stranger, "/c");
    sim.run([&] {
      const Outcome outcome = meet(sim, trusting, ours);
      EXPECT_TRUE(holds(outcome.at_server, "the peer's certificate is of another authority")) << outcome.at_server;
      EXPECT_FALSE(outcome.at_client.empty());
      client_learns |= holds(outcome.at_client, "refuses our certificate, as of another authority");
    });
  }
  EXPECT_TRUE(client_learns);
}

TEST(TlsPeers, OfTwoAuthoritiesEitherIsGood) {
  Simulation sim(1);
  make_identity(sim, "/a");
  make_identity(sim, "/b");
  const auto file = [&](const std::string& path) { return read_file(sim.files(), path); };
  const Certificate both{file("/a/ca.pem") + file("/b/ca.pem"), ""};
  const Identity one = identity_of(sim, both, {file("/a/node.pem"), file("/a/node.key")}, "/c");
  const Identity other = identity_of(sim, both, {file("/b/node.pem"), file("/b/node.key")}, "/d");
  sim.run([&] {
    const auto listener = make_tls_transport(sim, sim.transport(), one)->listen(any_port);
    const auto server = sim.spawn("server", [&] { EXPECT_EQ(read_all(*listener->accept(never)), "hello"); });
    make_tls_transport(sim, sim.transport(), other)->connect(listener->address(), never)->write("hello", never);
    server->join();
  });
}

TEST(TlsPeers, ExpiredIsRefusedAndSaysSince) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    Simulation sim(seed);
    const Certificate authority = make_authority(good_for(sim, days(100)));
    const Identity brief = identity_of(sim, authority, make_member(authority, good_for(sim, days(1))), "/a");
    const Identity lasting = identity_of(sim, authority, make_member(authority, good_for(sim, days(50))), "/b");
    sim.run([&] {
      sim.wait_for(days(2));
      EXPECT_TRUE(
          holds(meet(sim, lasting, brief).at_client, "the peer's certificate has expired on 2023-11-15 22:13:20 UTC"));
      const Outcome outcome = meet(sim, brief, lasting);
      EXPECT_TRUE(holds(outcome.at_server, "the peer's certificate has expired on 2023-11-15 22:13:20 UTC"));
      EXPECT_FALSE(outcome.at_client.empty());
      sim.wait_for(days(60));
      EXPECT_TRUE(holds(meet(sim, lasting, lasting).at_client, "expired"));
      sim.wait_for(days(60));
      EXPECT_TRUE(holds(meet(sim, lasting, lasting).at_client, "is of an authority that has expired on"));
    });
  }
}

TEST(TlsPeers, NotYetValidIsRefused) {
  Simulation sim(1);
  const Certificate authority = make_authority(good_for(sim, days(100)));
  CertificateOptions options = good_for(sim, days(50));
  const Identity now = identity_of(sim, authority, make_member(authority, options), "/a");
  Simulation later(1, {.start = sim.clock().now() + days(10)});
  options.from = later.clock().now();
  const Identity future = identity_of(later, authority, make_member(authority, options), "/a");
  sim.run([&] { EXPECT_TRUE(holds(meet(sim, now, future).at_client, "is not valid before 2023-11-24 22:13:20 UTC")); });
}

// ---- other kinds of peers ----

struct RawOptions {
  int version = TLS1_3_VERSION;
  bool has_certificate = true;
  std::string organization = cluster_organization;
};

/// A peer made of OpenSSL alone, which does what ours does not.
class RawPeer {
 public:
  RawPeer(Simulation& sim, const Certificate& authority, std::unique_ptr<Connection> below, TlsRole role,
          const RawOptions& options = {})
      : below_(std::move(below)), context_(SSL_CTX_new(TLS_method())) {
    SSL_CTX_set_max_proto_version(context_.get(), options.version);
    CertificateOptions subject = good_for(sim, days(1));
    subject.organization = options.organization;
    const Certificate member = make_member(authority, subject);
    if (options.has_certificate) {
      const auto parsed = detail::parse_certificates(member.certificate);
      SSL_CTX_use_certificate(context_.get(), parsed.at(0).get());
      SSL_CTX_use_PrivateKey(context_.get(), detail::parse_private_key(member.key).get());
    }
    session_.reset(SSL_new(context_.get()));
    in_ = BIO_new(BIO_s_mem());
    out_ = BIO_new(BIO_s_mem());
    SSL_set_bio(session_.get(), in_, out_);
    role == TlsRole::client ? SSL_set_connect_state(session_.get()) : SSL_set_accept_state(session_.get());
  }

  /// True when it succeeded.
  bool shake_hands() {
    return until_done([&] { return SSL_do_handshake(session_.get()); }) == 1;
  }
  int read(std::span<char> into) {
    return until_done([&] { return SSL_read(session_.get(), into.data(), static_cast<int>(into.size())); });
  }
  void write(const std::string& text) {
    until_done([&] { return SSL_write(session_.get(), text.data(), static_cast<int>(text.size())); });
  }
  void ask_for_new_keys() {
    EXPECT_EQ(SSL_key_update(session_.get(), SSL_KEY_UPDATE_REQUESTED), 1);
    until_done([&] { return SSL_do_handshake(session_.get()); });
  }
  Connection& below() { return *below_; }

 private:
  template <typename Call>
  int until_done(Call call) {
    while (true) {
      ERR_clear_error();
      const int result = call();
      const int error = SSL_get_error(session_.get(), result);
      ERR_clear_error();
      char buffer[20'000];
      if (const int count = BIO_read(out_, buffer, sizeof buffer); count > 0) {
        below_->write({buffer, static_cast<std::size_t>(count)}, never);
      }
      if (result > 0 || error != SSL_ERROR_WANT_READ) return result;
      const std::size_t count = *below_->read(buffer, never);
      if (count == 0) return 0;
      BIO_write(in_, buffer, static_cast<int>(count));
    }
  }

  const std::unique_ptr<Connection> below_;
  const detail::OpensslContext context_;
  detail::OpensslSession session_;
  BIO* in_ = nullptr;
  BIO* out_ = nullptr;
};

// What our end says when it meets a raw peer that is the other.
std::string meet_raw(Simulation& sim, const RawOptions& options, TlsRole ours,
                     const std::function<void(RawPeer&, Connection&)>& talk = {}) {
  const Certificate authority = make_authority(good_for(sim, days(100)));
  const Identity identity = identity_of(sim, authority, make_member(authority, good_for(sim, days(50))), "/raw");
  std::string why;
  sim.run([&] {
    const auto listener = sim.transport().listen(any_port);
    auto connecting = sim.transport().connect(listener->address(), never);
    auto accepted = listener->accept(never);
    if (ours == TlsRole::client) std::swap(connecting, accepted);
    const TlsRole theirs = ours == TlsRole::client ? TlsRole::server : TlsRole::client;
    const auto mine = make_tls_connection(sim, identity, ours, std::move(accepted));
    RawPeer raw(sim, authority, std::move(connecting), theirs, options);
    const auto thread = sim.spawn("raw", [&] {
      failure([&] {
        raw.shake_hands();
        char buffer[10];
        if (talk) talk(raw, *mine);
        raw.read(buffer);
      });
      raw.below().close();
    });
    char buffer[10];
    why = failure([&] { mine->read(buffer, never); });
    mine->close();
    thread->join();
  });
  return why;
}

TEST(TlsPeers, APeerWithoutACertificateIsRefused) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    Simulation sim(seed);
    const std::string why = meet_raw(sim, {.has_certificate = false}, TlsRole::server);
    EXPECT_TRUE(holds(why, "the peer has no certificate")) << why;
  }
}

TEST(TlsPeers, AMemberOfAnotherOrganizationIsRefused) {
  for (const TlsRole ours : {TlsRole::client, TlsRole::server}) {
    Simulation sim(1);
    const std::string why = meet_raw(sim, {.organization = "Example Ltd"}, ours);
    EXPECT_TRUE(holds(why, "the peer's certificate is not that of a member")) << why;
  }
}

TEST(TlsPeers, Tls12IsRefused) {
  for (const TlsRole ours : {TlsRole::client, TlsRole::server}) {
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
      Simulation sim(seed);
      const std::string why = meet_raw(sim, {.version = TLS1_2_VERSION}, ours);
      EXPECT_TRUE(holds(why, "the peer does not speak TLS 1.3")) << why;
    }
  }
}

TEST(TlsPeers, APeerThatDoesNotSpeakTlsIsTold) {
  const std::string texts[] = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "SSH-2.0-OpenSSH_9.2p1\r\n",
                               "HTTP/1.1 400 Bad Request\r\n\r\n", std::string(1'000, '\0'), std::string(1'000, 'x')};
  for (const TlsRole ours : {TlsRole::client, TlsRole::server}) {
    for (const std::string& text : texts) {
      Simulation sim(text.size());
      const Identity identity = make_identity(sim);
      sim.run([&] {
        const auto listener = sim.transport().listen(any_port);
        const auto plain = sim.transport().connect(listener->address(), never);
        const auto mine = make_tls_connection(sim, identity, ours, listener->accept(never));
        plain->write(text, never);
        char buffer[10];
        const std::string why = failure([&] { mine->read(buffer, never); });
        EXPECT_TRUE(holds(why, "the peer does not speak TLS")) << text << ": " << why;
        EXPECT_EQ(failure([&] { mine->write("x", never); }), why);
        EXPECT_EQ(failure([&] { mine->read(buffer, never); }), why);
      });
    }
  }
}

TEST(TlsPeers, APeerMayAskForNewKeys) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Simulation sim(seed);
    const std::string why = meet_raw(sim, {}, TlsRole::server, [](RawPeer& raw, Connection& mine) {
      char buffer[10];
      // Our reader is at work; it never writes, and what we write next brings the answer.
      for (int i = 0; i < 50; ++i) {
        raw.ask_for_new_keys();
        mine.write("0123456789", never);
        std::size_t got = 0;
        while (got < 10) got += static_cast<std::size_t>(raw.read(std::span(buffer).subspan(got)));
        EXPECT_EQ(std::string(buffer, 10), "0123456789");
      }
      raw.write("x");
    });
    EXPECT_EQ(why, "");
  }
}

TEST(TlsPeers, APeerThatAsksForNewKeysAllTheTimeIsLeft) {
  Simulation sim(1);
  const std::string why = meet_raw(sim, {}, TlsRole::server, [](RawPeer& raw, Connection&) {
    for (int i = 0; i < 10'000; ++i) raw.ask_for_new_keys();
  });
  EXPECT_TRUE(holds(why, "new keys too often")) << why;
}

// ---- bytes that somebody has changed ----

/// Changes one byte of what is written.
class Mangler final : public Connection {
 public:
  Mangler(std::unique_ptr<Connection> below, std::size_t at, char with)
      : below_(std::move(below)), at_(at), with_(with) {}

  std::optional<std::size_t> read(std::span<char> into, Time deadline) override { return below_->read(into, deadline); }
  void write(std::string_view bytes, Time deadline) override { below_->write(mangled(bytes), deadline); }
  void close() override { below_->close(); }
  void close_with(std::string_view bytes) override { below_->close_with(mangled(bytes)); }
  std::string peer() const override { return below_->peer(); }
  bool has_changed() const { return at_ < written_; }

 private:
  std::string mangled(std::string_view bytes) {
    std::string copy(bytes);
    if (at_ >= written_ && at_ - written_ < copy.size()) copy[at_ - written_] ^= with_;
    written_ += copy.size();
    return copy;
  }

  const std::unique_ptr<Connection> below_;
  const std::size_t at_;
  const char with_;
  std::size_t written_ = 0;
};

TEST(TlsPeers, AChangedByteIsAnErrorAndNeverAnotherText) {
  int failed = 0;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    Simulation sim(seed);
    const Identity identity = make_identity(sim);
    Random random(seed);
    const std::size_t at = random.below(1'500);
    const char with = static_cast<char>(1 + random.below(255));
    const bool by_client = random.chance(0.5);
    sim.run([&] {
      const auto listener = sim.transport().listen(any_port);
      auto client_below = sim.transport().connect(listener->address(), never);
      auto server_below = listener->accept(never);
      auto& mangled = by_client ? client_below : server_below;
      auto mangler = std::make_unique<Mangler>(std::move(mangled), at, with);
      const Mangler& sees = *mangler;
      mangled = std::move(mangler);
      const auto client = make_tls_connection(sim, identity, TlsRole::client, std::move(client_below));
      const auto server = make_tls_connection(sim, identity, TlsRole::server, std::move(server_below));
      const std::string text(500, 'x');
      const auto run = [&](Connection& connection) {
        std::string received;
        const std::string why = failure([&] {
          connection.write(text, never);
          received = read_exactly(connection, text.size());
        });
        connection.close();
        EXPECT_TRUE(text.starts_with(received));
        return why.empty() && received == text;
      };
      bool server_is_content = false;
      const auto thread = sim.spawn("server", [&] { server_is_content = run(*server); });
      const bool client_is_content = run(*client);
      thread->join();
      // The last bytes, the end of TLS, are read by nobody here.
      if (sees.has_changed() && !(client_is_content && server_is_content)) ++failed;
    });
  }
  EXPECT_GT(failed, 300);
}

TEST(TlsPeers, GarbageIsAnError) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Simulation sim(seed);
    const Identity identity = make_identity(sim);
    sim.run([&] {
      Random random(seed);
      const auto listener = sim.transport().listen(any_port);
      const auto plain = sim.transport().connect(listener->address(), never);
      const auto mine = make_tls_connection(sim, identity, random.chance(0.5) ? TlsRole::client : TlsRole::server,
                                            listener->accept(never));
      std::string bytes = random_text(random, 1 + random.below(3'000));
      // Half of it looks like a record.
      if (random.chance(0.5)) bytes.insert(0, "\x16\x03\x03\x01\x00", 5);
      plain->write(bytes, never);
      plain->close();
      EXPECT_FALSE(failure([&] { read_all(*mine); }).empty());
    });
  }
}

// ---- files ----

TEST(TlsPeers, FilesThatCannotBeUsedAreRefused) {
  Simulation sim(1);
  FileSystem& files = sim.files();
  make_cluster_certificates(sim, "/a", days(10));
  make_cluster_certificates(sim, "/b", days(10));
  const TlsFiles names = TlsFiles::in("/a");
  const auto why_not = [&](TlsFiles changed, Code code = Code::bad_certificate) {
    const std::string why = failure([&] { load_tls_identity(sim, changed); }, code);
    EXPECT_FALSE(why.empty());
    return why;
  };
  const auto with = [&](std::string TlsFiles::* member, const std::string& path) {
    TlsFiles changed = names;
    changed.*member = path;
    return changed;
  };
  files.publish("/garbage", "nonsense", Readers::owner);
  files.publish("/open.key", read_file(files, "/a/node.key"));

  for (std::string TlsFiles::* member : {&TlsFiles::authority, &TlsFiles::certificate, &TlsFiles::key}) {
    EXPECT_EQ(why_not(with(member, "/none"), Code::not_readable), "/none: no such file");
    EXPECT_TRUE(why_not(with(member, "/garbage")).starts_with("/garbage is no PEM"));
  }
  EXPECT_TRUE(holds(why_not(with(&TlsFiles::key, "/open.key")), "may be read by others"));
  EXPECT_EQ(why_not(with(&TlsFiles::key, "/b/node.key")),
            "the key /b/node.key does not fit the certificate /a/node.pem");
  EXPECT_EQ(why_not(with(&TlsFiles::authority, "/b/ca.pem")), "/a/node.pem is of another authority (/b/ca.pem)");
  TlsFiles authority = with(&TlsFiles::certificate, "/a/ca.pem");
  authority.key = "/a/ca.key";
  EXPECT_TRUE(holds(why_not(authority), "/a/ca.pem is not that of a member"));
  EXPECT_NE(load_tls_identity(sim, names), nullptr);
  sim.run([&] { sim.wait_for(days(11)); });
  EXPECT_EQ(why_not(names), "/a/node.pem has expired on 2023-11-24 22:13:20 UTC (/a/ca.pem)");
}

}  // namespace
}  // namespace sluice::tls_test
