#include "sluice/runtime/openssl.h"

#include <openssl/err.h>
#include <openssl/pem.h>

#include <cstdio>

namespace sluice::detail {
namespace {

OpensslBio reader_of(std::string_view text) {
  return OpensslBio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// Without it OpenSSL asks for passwords on the terminal.
int no_password(char*, int, int, void*) { return -1; }

}  // namespace

std::string openssl_failure() {
  const unsigned long error = ERR_peek_last_error();
  const char* const reason = ERR_reason_error_string(error);
  std::string text = reason != nullptr ? reason : "error " + std::to_string(error);
  ERR_clear_error();
  return text;
}

std::vector<OpensslCertificate> parse_certificates(std::string_view pem) {
  std::vector<OpensslCertificate> all;
  const OpensslBio reader = reader_of(pem);
  while (OpensslCertificate one{PEM_read_bio_X509(reader.get(), nullptr, no_password, nullptr)}) {
    all.push_back(std::move(one));
  }
  ERR_clear_error();
  return all;
}

OpensslKey parse_private_key(std::string_view pem) {
  const OpensslBio reader = reader_of(pem);
  OpensslKey key(PEM_read_bio_PrivateKey(reader.get(), nullptr, no_password, nullptr));
  ERR_clear_error();
  return key;
}

std::time_t to_seconds(Time time) { return std::chrono::floor<std::chrono::seconds>(time).time_since_epoch().count(); }

std::string to_text(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return "a date that cannot be read";
  char text[64];
  std::snprintf(text, sizeof text, "%04d-%02d-%02d %02d:%02d:%02d UTC", parts.tm_year + 1900, parts.tm_mon + 1,
                parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
  return text;
}

}  // namespace sluice::detail
