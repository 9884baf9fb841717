#include "sluice/cluster/network.h"

#include "sluice/core/codec.h"
#include "sluice/runtime/certificates.h"
#include "sluice/runtime/tls.h"

namespace sluice::detail {

ClusterNetwork plain_network(Runtime& runtime) {
  Encoder token;
  for (int i = 0; i < 4; ++i) token.u64(runtime.random_seed());
  return {{std::shared_ptr<void>(), &runtime.transport()}, token.take()};
}

ClusterNetwork simulated_network(Runtime& runtime) {
  return {{std::shared_ptr<void>(), &runtime.transport()}, "simulated"};
}

ClusterNetwork secured_network(Runtime& runtime, const std::string& directory) {
  const auto identity = load_tls_identity(runtime, TlsFiles::in(directory));
  return {make_tls_transport(runtime, runtime.transport(), identity),
          read_private_key(runtime.files(), CertificateFiles::in(directory).token)};
}

std::string reached_at(const std::string& address, const std::string& peer) {
  const std::string host = host_of(address);
  if (host != "0.0.0.0" && host != "[::]") return address;
  return host_of(peer) + address.substr(address.rfind(':'));
}

std::string host_of(const std::string& address) {
  return address.starts_with("unix:") ? std::string() : address.substr(0, address.rfind(':'));
}

}  // namespace sluice::detail
