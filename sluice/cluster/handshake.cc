#include "sluice/cluster/handshake.h"

#include "sluice/core/program.h"
#include "sluice/runtime/errors.h"

namespace sluice::detail {
namespace {

constexpr std::size_t hello_bytes_max = 64 << 10;

Error refused(const Channel& channel, const std::string& why) {
  return Error(Code::process_failed, {.why = channel.peer() + " refuses this process: " + why});
}

// Takes the same time wherever they differ.
bool same_token(const std::string& a, const std::string& b) {
  unsigned char differ = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) differ |= static_cast<unsigned char>(a[i] ^ b[i]);
  return differ == 0;
}

}  // namespace

Welcome say_hello(Runtime& runtime, Channel& channel, Hello hello) {
  hello.build = build_of_program();
  channel.send(encode_message(hello));
  const auto answer = channel.receive(runtime.clock().now() + handshake_time_max, hello_bytes_max);
  if (!answer.has_value()) throw refused(channel, "it has closed the connection");
  auto welcome = decode_message<Welcome>(*answer);
  if (!welcome.refusal.empty()) throw refused(channel, welcome.refusal);
  return welcome;
}

std::optional<Hello> hear_hello(Runtime& runtime, Channel& channel) {
  const auto first = channel.receive(runtime.clock().now() + handshake_time_max, hello_bytes_max);
  if (!first.has_value()) return std::nullopt;
  return decode_message<Hello>(*first);
}

std::string refusal_of(const Hello& hello, const std::string& token) {
  // Before anything is told: who does not have it learns nothing.
  if (!same_token(hello.token, token)) return "its token is wrong";
  if (hello.version != protocol_version) {
    return "it speaks version " + std::to_string(hello.version) + " of the protocol, not " +
           std::to_string(protocol_version);
  }
  if (hello.build != build_of_program()) return "it runs another build of the program";
  return {};
}

}  // namespace sluice::detail
