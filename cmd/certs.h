// The command `sluice certs`: the certificates of a cluster.
#pragma once

#include <string>

namespace sluice_cmd {

/// Arguments of `sluice certs`.
struct CertsArguments {
  std::string directory;
  int days = 365;
  bool renew = false;
};

/// Makes or renews the certificates and says what to copy where. Errors: those of runtime/certificates.h.
void make_certs(const CertsArguments& arguments);

}  // namespace sluice_cmd
