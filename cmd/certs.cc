#include "cmd/certs.h"

#include <chrono>
#include <cstdio>

#include "sluice/runtime/certificates.h"
#include "sluice/runtime/runtime.h"

namespace sluice_cmd {

void make_certs(const CertsArguments& arguments) {
  sluice::Runtime& runtime = sluice::system_runtime();
  const std::string& directory = arguments.directory;
  const std::chrono::days valid(arguments.days);
  const sluice::CertificateFiles files = sluice::CertificateFiles::in(directory);
  const sluice::CertificateDates dates = arguments.renew ? sluice::renew_member_certificate(runtime, directory, valid)
                                                         : sluice::make_cluster_certificates(runtime, directory, valid);
  if (!arguments.renew) {
    std::printf(
        "%s  the cluster's authority, until %s\n"
        "%s  its key, only for making more certificates\n",
        files.authority.c_str(), dates.authority.c_str(), files.authority_key.c_str());
  }
  std::printf(
      "%s  a member's certificate, until %s\n"
      "%s  its key\n"
      "%s  what all members share\n\n",
      files.certificate.c_str(), dates.member.c_str(), files.key.c_str(), files.token.c_str());
  std::printf(
      "Copy ca.pem, node.pem, node.key and token (the last two with mode 0600) to each host of the cluster, and there\n"
      "let nobody read them but the user that the programs run as: who has them is a member, and a member can run any\n"
      "code of the program.\n");
  if (!arguments.renew) {
    std::printf("Keep ca.key where it is, or better on no host of the cluster: who has it can make members.\n");
  }
  std::printf("Before %s: sluice certs %s --renew, copy node.pem and node.key again, and start the programs again.\n",
              dates.member.c_str(), directory.c_str());
}

}  // namespace sluice_cmd
