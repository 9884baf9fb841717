// What tests of TLS share: identities, and what two ends do.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "sluice/runtime/certificates.h"
#include "sluice/runtime/errors.h"
#include "sluice/runtime/tls.h"

namespace sluice::tls_test {

using Identity = std::shared_ptr<const TlsIdentity>;

constexpr Time never = Time::max();

// The reason of a failure of the network; empty when there was none.
inline std::string failure(const std::function<void()>& call, Code code = Code::network_failed) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.details().why;
  }
  return "";
}

inline bool holds(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

// The identity of a new cluster, whose files lie in `directory`.
inline Identity make_identity(Runtime& runtime, const std::string& directory = "/certs") {
  make_cluster_certificates(runtime, directory, std::chrono::days(365));
  return load_tls_identity(runtime, TlsFiles::in(directory));
}

inline Identity identity_of(Runtime& runtime, const Certificate& authority, const Certificate& member,
                            const std::string& directory) {
  const TlsFiles files = TlsFiles::in(directory);
  runtime.files().make_directories(directory);
  runtime.files().publish(files.authority, authority.certificate);
  runtime.files().publish(files.certificate, member.certificate);
  runtime.files().publish(files.key, member.key, Readers::owner);
  return load_tls_identity(runtime, files);
}

inline CertificateOptions good_for(Runtime& runtime, Duration time) {
  return {.from = runtime.clock().now() - std::chrono::days(1), .until = runtime.clock().now() + time};
}

inline std::string random_text(Random& random, std::size_t size) {
  std::string text(size, '\0');
  for (char& byte : text) byte = static_cast<char>(random.next());
  return text;
}

inline std::string read_exactly(Connection& connection, std::size_t size, std::size_t piece = 100'000) {
  std::string all;
  std::string buffer(piece, '\0');
  while (all.size() < size) {
    const auto count = connection.read(std::span(buffer).first(std::min(piece, size - all.size())), never);
    if (!count || *count == 0) break;
    all.append(buffer, 0, *count);
  }
  return all;
}

// To the end of the stream.
inline std::string read_all(Connection& connection) { return read_exactly(connection, std::string::npos); }

inline const Address any_port = Address::tcp("127.0.0.1", 0);

}  // namespace sluice::tls_test
