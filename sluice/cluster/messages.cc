#include "sluice/cluster/messages.h"

#include "sluice/core/program.h"

namespace sluice::detail {
namespace {

// Takes the same time wherever they differ.
bool same_token(const std::string& a, const std::string& b) {
  unsigned char differ = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) differ |= static_cast<unsigned char>(a[i] ^ b[i]);
  return differ == 0;
}

}  // namespace

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
