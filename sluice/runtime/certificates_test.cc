#include "sluice/runtime/certificates.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <string>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/tls.h"
#include "sluice/testkit/simulation.h"
#include "tests/failure.h"

namespace sluice {
namespace {

using std::chrono::days;
using testing::failure;

TEST(Certificates, OfAClusterLieInADirectoryAndKeysAreForTheirOwner) {
  testing::Simulation sim(1);  // begins on 2023-11-14
  const CertificateDates dates = make_cluster_certificates(sim, "/etc/sluice", days(365));
  EXPECT_EQ(dates.member, "2024-11-13 22:13:20 UTC");
  EXPECT_EQ(dates.authority, "2033-11-11 22:13:20 UTC");
  for (const char* name : {"ca.pem", "ca.key", "node.pem", "node.key", "token"}) {
    const std::string path = std::string("/etc/sluice/") + name;
    const auto info = sim.files().stat(path);
    ASSERT_TRUE(info) << path;
    EXPECT_EQ(info->mode, path.ends_with(".pem") ? 0644U : 0600U) << path;
  }
  EXPECT_EQ(sim.files().list("/etc/sluice")->size(), 5U);
}

TEST(Certificates, AnAuthorityIsNeverReplaced) {
  testing::Simulation sim(1);
  make_cluster_certificates(sim, "/a", days(1));
  const std::string before = read_file(sim.files(), "/a/ca.key");
  const std::string why = failure(Code::bad_certificate, [&] { make_cluster_certificates(sim, "/a", days(1)); });
  EXPECT_NE(why.find("/a/ca.pem is there already"), std::string::npos) << why;
  EXPECT_NE(why.find("--renew"), std::string::npos) << why;
  // Half of one is one, too.
  sim.files().remove("/a/ca.pem");
  failure(Code::bad_certificate, [&] { make_cluster_certificates(sim, "/a", days(1)); });
  EXPECT_EQ(read_file(sim.files(), "/a/ca.key"), before);
}

TEST(Certificates, AreRenewedByTheSameAuthority) {
  testing::Simulation sim(1);
  make_cluster_certificates(sim, "/a", days(30));
  const std::string authority = read_file(sim.files(), "/a/ca.pem");
  const std::string member = read_file(sim.files(), "/a/node.pem");
  EXPECT_EQ(renew_member_certificate(sim, "/a", days(60)).member, "2024-01-13 22:13:20 UTC");
  EXPECT_EQ(read_file(sim.files(), "/a/ca.pem"), authority);
  EXPECT_NE(read_file(sim.files(), "/a/node.pem"), member);
  EXPECT_EQ(sim.files().stat("/a/node.key")->mode, 0600U);
  // A member outlives no authority.
  EXPECT_EQ(renew_member_certificate(sim, "/a", days(10'000)).member, "2033-11-11 22:13:20 UTC");
}

TEST(Certificates, ThatCannotBeRenewedSayWhy) {
  testing::Simulation sim(1);
  failure(Code::not_readable, [&] { renew_member_certificate(sim, "/a", days(1)); });
  make_cluster_certificates(sim, "/a", days(1));
  make_cluster_certificates(sim, "/b", days(1));
  const std::string key = read_file(sim.files(), "/b/ca.key");
  sim.files().publish("/a/ca.key", key, Readers::owner);
  EXPECT_EQ(failure(Code::bad_certificate, [&] { renew_member_certificate(sim, "/a", days(1)); }),
            "the authority's key does not fit its certificate");
  sim.files().publish("/b/ca.key", key);
  EXPECT_NE(failure(Code::bad_certificate, [&] { renew_member_certificate(sim, "/b", days(1)); }).find("chmod 600"),
            std::string::npos);
  sim.files().publish("/b/ca.key", "nonsense", Readers::owner);
  failure(Code::bad_certificate, [&] { renew_member_certificate(sim, "/b", days(1)); });
  make_cluster_certificates(sim, "/c", days(1));
  sim.run([&] { sim.wait_for(days(3651)); });
  EXPECT_EQ(failure(Code::bad_certificate, [&] { renew_member_certificate(sim, "/c", days(1)); }),
            "/c/ca.pem has expired on 2033-11-11 22:13:20 UTC");
}

// A crash in the middle leaves nothing that looks finished, and no key that others may read.
TEST(Certificates, AreWholeOrMissingAfterACrash) {
  for (std::uint64_t steps = 1; steps < 60; ++steps) {
    testing::Simulation sim(steps);
    sim.crash_after(steps);
    bool crashed = false;
    try {
      sim.run([&] { make_cluster_certificates(sim, "/a", days(1)); });
    } catch (const testing::SimulatedCrash&) {
      crashed = true;
    }
    sim.crash_disk();
    if (crashed && !sim.files().stat("/a/ca.pem")) continue;
    renew_member_certificate(sim, "/a", days(1));
  }
}

TEST(Certificates, AKeyThatOthersMayReadIsRefused) {
  Runtime& runtime = system_runtime();
  std::string directory = ::testing::TempDir() + "/sluice-certificates-XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  make_cluster_certificates(runtime, directory, days(1));
  const TlsFiles files = TlsFiles::in(directory);
  EXPECT_NE(load_tls_identity(runtime, files), nullptr);
  for (const mode_t mode : {0644U, 0640U, 0604U, 0610U}) {
    ASSERT_EQ(::chmod(files.key.c_str(), mode), 0);
    const std::string why = failure(Code::bad_certificate, [&] { load_tls_identity(runtime, files); });
    EXPECT_NE(why.find("chmod 600 " + files.key), std::string::npos) << why;
  }
  runtime.files().remove_all(directory);
}

}  // namespace
}  // namespace sluice
