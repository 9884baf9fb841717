// Byte streams that only members of a cluster can read, write or open: TLS 1.3 over any other stream.
//
//     const auto identity = load_tls_identity(runtime, TlsFiles::in("/etc/sluice"));
//     const auto transport = make_tls_transport(runtime, runtime.transport(), identity);
//     const auto listener = transport->listen(Address::tcp("0.0.0.0", 7077));
//
// Both ends show a certificate, and both check the other's: signed by the cluster's authority, valid now (by the
// runtime's clock), of the organization "sluice", and meant for that end of TLS. One authority a cluster: whoever has a
// certificate of it is a member. Names of hosts are not checked, since addresses come from members and change with each
// executor that is started anew, and a member that poses as another gains nothing that it could not do anyway.
//
// TLS 1.3 alone, so there is no renegotiation and no compression. Sessions are not resumed and there are no tickets: a
// certificate that has expired would go on being good for as long as they last. A stream that ends without TLS's own
// end was cut off, by somebody or something, and that is an error.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "sluice/runtime/runtime.h"
#include "sluice/runtime/transport.h"

namespace sluice {

/// Paths of the PEM files that make a member.
struct TlsFiles {
  /// One or more certificates of authorities: two while one takes the other's place.
  std::string authority;
  std::string certificate;
  /// Mode 0600, without a password.
  std::string key;

  /// ca.pem, node.pem and node.key, as `sluice certs` makes them.
  static TlsFiles in(const std::string& directory);
};

/// Certificate, key and authority of this process. Threads: shared by all.
class TlsIdentity;

/// Reads and checks the files. The files are not looked at again: a process that is to use a new certificate is started
/// again. Errors: SLU-411 a file is missing; SLU-415 one cannot be understood, the key does not fit the certificate or
/// may be read by others, the certificate has expired, is not valid yet, or is not signed by the authority.
std::shared_ptr<const TlsIdentity> load_tls_identity(Runtime& runtime, const TlsFiles& files);

/// What a TLS connection is allowed.
struct TlsOptions {
  /// How long both ends may take to agree, from the first call that waits for it. What is slower is cut off.
  Duration handshake_time_max = std::chrono::seconds(10);
  /// Bytes that are written with one key. AES-GCM is good for 2^24.5 records of 16 KiB (RFC 8446, 5.5), 360 GiB.
  std::uint64_t key_bytes_max = std::uint64_t{64} << 30;
};

/// Which end of TLS: who connected, or who accepted.
enum class TlsRole { client, server };

/// TLS over `below`. Waits for nothing: the first `read` or `write` makes the handshake, within its own deadline and
/// `handshake_time_max`. As with every Connection one thread may read while another writes; whichever comes first makes
/// the handshake and the other waits. `close`, and the destructor, tell the peer that this is the end, unless it has
/// no room for that or a write is on its way: then it was cut off.
///
/// Errors: SLU-402 as all connections; its reason says so where the peer has no certificate, one of another authority,
/// an expired one, does not speak TLS or not 1.3, refuses our certificate, took too long or was cut off. A server looks
/// at a client's certificate last, so a client learns by its first `read` that it was refused.
std::unique_ptr<Connection> make_tls_connection(Runtime& runtime, std::shared_ptr<const TlsIdentity> identity,
                                                TlsRole role, std::unique_ptr<Connection> below,
                                                TlsOptions options = {});

/// A transport of TLS connections over those of `below`, which must outlive it.
///
/// `connect` returns after the handshake: the peer is a member. The deadline is that of both together. `accept` returns
/// before it, so one who connects and says nothing keeps nobody else waiting; whoever accepts must soon read or write,
/// since the peer's `connect` waits for that. `listen` listens on any address, as `listen_anywhere` does.
std::unique_ptr<Transport> make_tls_transport(Runtime& runtime, Transport& below,
                                              std::shared_ptr<const TlsIdentity> identity, TlsOptions options = {});

}  // namespace sluice
