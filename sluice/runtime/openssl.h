// What the users of OpenSSL in this layer share: owners of its objects, its errors, PEM, dates.
#pragma once

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/runtime/clock.h"

namespace sluice::detail {

/// Frees an object of OpenSSL by its function.
template <auto release>
struct Released {
  template <typename Object>
  void operator()(Object* object) const {
    release(object);
  }
};

using OpensslBio = std::unique_ptr<BIO, Released<BIO_free>>;
using OpensslKey = std::unique_ptr<EVP_PKEY, Released<EVP_PKEY_free>>;
using OpensslCertificate = std::unique_ptr<X509, Released<X509_free>>;
using OpensslStore = std::unique_ptr<X509_STORE, Released<X509_STORE_free>>;
using OpensslContext = std::unique_ptr<SSL_CTX, Released<SSL_CTX_free>>;
using OpensslSession = std::unique_ptr<SSL, Released<SSL_free>>;

/// Why the last call failed, in OpenSSL's words, and forgets it.
std::string openssl_failure();

/// All certificates of a PEM text, none when there is no whole one.
std::vector<OpensslCertificate> parse_certificates(std::string_view pem);
/// nullptr when there is no private key that can be read without a password.
OpensslKey parse_private_key(std::string_view pem);

/// Seconds since 1970, as OpenSSL wants the time.
std::time_t to_seconds(Time time);
/// "2027-03-01 12:00:00 UTC".
std::string to_text(const ASN1_TIME* time);

}  // namespace sluice::detail
