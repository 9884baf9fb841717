// How the processes of a cluster reach each other, and what they know each other by.
#pragma once

#include <memory>
#include <string>

#include "sluice/runtime/runtime.h"
#include "sluice/runtime/transport.h"

namespace sluice::detail {

struct ClusterNetwork {
  std::shared_ptr<Transport> transport;
  /// All processes of the cluster have it, and nobody else.
  std::string token;
};

/// Streams of `runtime` as they are, with a token that nobody has yet: for processes of one host.
ClusterNetwork plain_network(Runtime& runtime);
/// The same for a simulation, whose processes all know the token.
ClusterNetwork simulated_network(Runtime& runtime);
/// TLS between members, by what lies in a directory that `sluice certs` has made: for several hosts. `runtime` must
/// outlive it. Errors: SLU-411, SLU-415.
ClusterNetwork secured_network(Runtime& runtime, const std::string& directory);

/// Where others reach who listens on `address` and has come from `peer`: an address that means all of its host
/// ("0.0.0.0:port") is that of its host, with that port.
std::string reached_at(const std::string& address, const std::string& peer);
/// The host of "host:port"; empty for a unix socket.
std::string host_of(const std::string& address);

}  // namespace sluice::detail
