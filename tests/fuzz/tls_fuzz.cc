// Any bytes, read as TLS by either end; and a real handshake of two ends that somebody changes on its way: an error
// that says so, or what the other end has written. The first byte says which of them it is.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/runtime/certificates.h"
#include "sluice/runtime/errors.h"
#include "sluice/runtime/tls.h"
#include "sluice/testkit/simulation.h"

namespace {

using namespace sluice;

constexpr Time past{};
constexpr std::string_view text = "what one end says to the other";

/// Changes the byte at `at` of one direction.
struct Edit {
  std::size_t at;
  char with;
};

/// One direction.
struct Pipe {
  std::string bytes;
  std::size_t taken = 0;
  bool ended = false;
  std::vector<Edit> edits;
  std::size_t written = 0;
  bool changed = false;
};

class End final : public Connection {
 public:
  End(Pipe& in, Pipe& out) : in_(in), out_(out) {}
  std::optional<std::size_t> read(std::span<char> into, Time) override {
    const std::size_t count = in_.bytes.copy(into.data(), into.size(), in_.taken);
    in_.taken += count;
    if (count == 0 && !in_.ended) return std::nullopt;
    return count;
  }
  void write(std::string_view bytes, Time) override {
    if (out_.ended) throw Error(Code::network_failed, {.why = "closed"});
    out_.bytes += bytes;
    for (const Edit& edit : out_.edits) {
      if (edit.at < out_.written || edit.at >= out_.bytes.size()) continue;
      out_.bytes[edit.at] ^= edit.with;
      out_.changed |= edit.with != 0;
    }
    out_.written = out_.bytes.size();
  }
  void close() override { in_.ended = out_.ended = true; }
  void close_with(std::string_view bytes) override {
    if (!out_.ended) write(bytes, past);
    close();
  }
  std::string peer() const override { return "memory"; }

 private:
  Pipe& in_;
  Pipe& out_;
};

Runtime& world() {
  static auto& made = *new testing::Simulation(1);
  return made;
}

const std::shared_ptr<const TlsIdentity>& identity() {
  static const auto& made = *new auto([] {
    make_cluster_certificates(world(), "/certs", std::chrono::days(1));
    return load_tls_identity(world(), TlsFiles::in("/certs"));
  }());
  return made;
}

/// One end, which writes `text` as soon as it can and reads what comes.
struct Side {
  std::unique_ptr<Connection> connection;
  bool written = false;
  bool over = false;
  std::string received{};

  void step() {
    if (over) return;
    char buffer[100];
    try {
      while (const auto count = connection->read(buffer, past)) {
        over = *count == 0;
        received.append(buffer, *count);
        if (over) return;
      }
    } catch (const Error& error) {
      if (error.code() != Code::network_failed) std::abort();
      over = true;
      return;
    }
    try {
      if (!written) connection->write(text, past);
      written = true;
    } catch (const Error& error) {
      // The handshake is not finished.
      if (error.code() != Code::network_failed) std::abort();
    }
  }
};

Side make_side(TlsRole role, Pipe& in, Pipe& out) {
  return {make_tls_connection(world(), identity(), role, std::make_unique<End>(in, out))};
}

void read_garbage(TlsRole role, std::string_view bytes) {
  Pipe in{std::string(bytes)};
  Pipe out;
  in.ended = true;
  Side side = make_side(role, in, out);
  for (int i = 0; i < 3; ++i) side.step();
  if (!side.over || !side.received.empty()) std::abort();
}

void change_handshake(std::string_view edits) {
  Pipe up;
  Pipe down;
  for (; edits.size() >= 3; edits.remove_prefix(3)) {
    const auto number = [&](std::size_t i) { return static_cast<std::size_t>(static_cast<unsigned char>(edits[i])); };
    ((number(0) & 1) == 0 ? up : down).edits.push_back({(number(0) >> 1) * 256 % 2048 + number(1), edits[2]});
  }
  Side client = make_side(TlsRole::client, down, up);
  Side server = make_side(TlsRole::server, up, down);
  for (int i = 0; i < 8; ++i) {
    client.step();
    server.step();
  }
  for (const Side* side : {&client, &server}) {
    if (!text.starts_with(side->received)) std::abort();
    if (!up.changed && !down.changed && side->received != text) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  // A handshake takes 1 ms, so it is not the most frequent.
  if (data[0] % 8 == 0) {
    change_handshake(bytes);
  } else {
    read_garbage(data[0] % 2 == 0 ? TlsRole::client : TlsRole::server, bytes);
  }
  return 0;
}
