// Certificates of a cluster: an authority of its own, and members that it has signed.
//
//     sluice certs /etc/sluice      (the command; it calls make_cluster_certificates)
//
// Keys are Ed25519: signatures have one size, so that a simulation of the same seed sends as many bytes each time.
// There is no list of revoked certificates. Who is to be thrown out makes a new authority necessary.
#pragma once

#include <chrono>
#include <string>

#include "sluice/runtime/runtime.h"

namespace sluice {

/// A certificate and its private key, as PEM text.
struct Certificate {
  std::string certificate;
  std::string key;
};

/// The organization that all members have in their subject: an authority that signs other things too makes no members.
inline constexpr const char* cluster_organization = "sluice";

/// What a certificate says.
struct CertificateOptions {
  Time from;
  Time until;
  std::string organization = cluster_organization;
};

/// A new authority, signed by itself. Threads: any. Errors: SLU-415.
Certificate make_authority(const CertificateOptions& options);
/// A new certificate for both ends of TLS, signed by `authority`. Threads: any. Errors: SLU-415.
Certificate make_member(const Certificate& authority, const CertificateOptions& options);

/// Names of the files in a directory of certificates.
struct CertificateFiles {
  std::string authority;
  std::string authority_key;
  std::string certificate;
  std::string key;
  /// A secret that all members share.
  std::string token;

  /// ca.pem, ca.key, node.pem, node.key and token of `directory`.
  static CertificateFiles in(const std::string& directory);
};

/// Until when the certificates of a directory are valid, for people: "2027-03-01 12:00:00 UTC".
struct CertificateDates {
  std::string authority;
  std::string member;
};

/// Makes an authority (for ten years, or for as long as the member), a member and a token in `directory`, which is made
/// if missing. Keys and token have mode 0600; each file is there whole or not at all after a crash. Certificates are
/// valid from a day before, because the clocks of hosts differ. Errors: SLU-415 when an authority is there, SLU-401.
CertificateDates make_cluster_certificates(Runtime& runtime, const std::string& directory, std::chrono::days valid);
/// Replaces node.pem and node.key by a new member of the same authority. It ends with its authority at the latest.
/// Errors: SLU-411 no authority there, SLU-415 one that cannot be used or has expired, SLU-401.
CertificateDates renew_member_certificate(Runtime& runtime, const std::string& directory, std::chrono::days valid);

/// What lies in the file of a private key, or of a token. Errors: SLU-411 missing, SLU-415 others than its owner may
/// read it.
std::string read_private_key(FileSystem& files, const std::string& path);

}  // namespace sluice
