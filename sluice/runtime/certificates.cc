#include "sluice/runtime/certificates.h"

#include <openssl/bn.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/openssl.h"

namespace sluice {
namespace {

using detail::OpensslBio;
using detail::OpensslCertificate;
using detail::OpensslKey;

[[noreturn]] void fail(const std::string& why) { throw Error(Code::bad_certificate, {.why = why}); }

// OpenSSL fails here only for want of memory or of randomness.
void check(bool done) {
  if (!done) fail("OpenSSL: " + detail::openssl_failure());
}

constexpr std::uint64_t file_bytes_max = 1 << 20;

template <typename Write>
std::string to_pem(Write write) {
  const OpensslBio memory(BIO_new(BIO_s_mem()));
  check(memory && write(memory.get()) == 1);
  char* data = nullptr;
  const long size = BIO_get_mem_data(memory.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

std::string to_pem(X509* certificate) {
  return to_pem([&](BIO* into) { return PEM_write_bio_X509(into, certificate); });
}

std::string to_pem(EVP_PKEY* key) {
  return to_pem([&](BIO* into) { return PEM_write_bio_PrivateKey(into, key, nullptr, nullptr, 0, nullptr, nullptr); });
}

OpensslKey new_key() {
  OpensslKey key(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  check(key != nullptr);
  return key;
}

// A random number of 16 bytes, never fewer: sizes must not depend on chance.
void set_serial(X509* certificate) {
  const std::unique_ptr<BIGNUM, detail::Released<BN_free>> number(BN_new());
  check(number && BN_rand(number.get(), 127, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1);
  check(BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) != nullptr);
}

void add_extension(X509* certificate, X509* issuer, int kind, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const std::unique_ptr<X509_EXTENSION, detail::Released<X509_EXTENSION_free>> extension(
      X509V3_EXT_conf_nid(nullptr, &context, kind, value));
  check(extension && X509_add_ext(certificate, extension.get(), -1) == 1);
}

void add_name(X509* certificate, const char* field, const std::string& value) {
  check(X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), field, MBSTRING_UTF8,
                                   reinterpret_cast<const unsigned char*>(value.c_str()), -1, -1, 0) == 1);
}

// A certificate for `key` without issuer, extensions and signature.
OpensslCertificate begin_certificate(const CertificateOptions& options, EVP_PKEY* key, const char* common_name) {
  OpensslCertificate made(X509_new());
  check(made && X509_set_version(made.get(), X509_VERSION_3) == 1);
  set_serial(made.get());
  check(ASN1_TIME_set(X509_getm_notBefore(made.get()), detail::to_seconds(options.from)) != nullptr);
  check(ASN1_TIME_set(X509_getm_notAfter(made.get()), detail::to_seconds(options.until)) != nullptr);
  check(X509_set_pubkey(made.get(), key) == 1);
  add_name(made.get(), "O", options.organization);
  add_name(made.get(), "CN", common_name);
  return made;
}

Certificate sign(X509* certificate, EVP_PKEY* key, EVP_PKEY* by) {
  // Ed25519 hashes by itself.
  check(X509_sign(certificate, by, nullptr) > 0);
  return {to_pem(certificate), to_pem(key)};
}

struct Authority {
  OpensslCertificate certificate;
  OpensslKey key;
};

Authority parse(const Certificate& authority) {
  std::vector<OpensslCertificate> certificates = detail::parse_certificates(authority.certificate);
  if (certificates.empty()) fail("the authority's certificate is no PEM certificate");
  Authority parsed{std::move(certificates.front()), detail::parse_private_key(authority.key)};
  if (!parsed.key) fail("the authority's key is no PEM private key without a password");
  if (X509_check_private_key(parsed.certificate.get(), parsed.key.get()) != 1) {
    fail("the authority's key does not fit its certificate");
  }
  return parsed;
}

std::string until(const Certificate& made) {
  const std::vector<OpensslCertificate> parsed = detail::parse_certificates(made.certificate);
  return detail::to_text(X509_get0_notAfter(parsed.at(0).get()));
}

CertificateOptions valid_for(Runtime& runtime, std::chrono::days valid) {
  const Time now = runtime.clock().now();
  return {.from = now - std::chrono::days(1), .until = now + valid};
}

void publish_member(FileSystem& files, const CertificateFiles& names, const Certificate& member) {
  files.publish(names.key, member.key, Readers::owner);
  files.publish(names.certificate, member.certificate);
}

}  // namespace

Certificate make_authority(const CertificateOptions& options) {
  const OpensslKey key = new_key();
  const OpensslCertificate made = begin_certificate(options, key.get(), "authority");
  check(X509_set_issuer_name(made.get(), X509_get_subject_name(made.get())) == 1);
  add_extension(made.get(), made.get(), NID_basic_constraints, "critical,CA:TRUE,pathlen:0");
  add_extension(made.get(), made.get(), NID_key_usage, "critical,keyCertSign,cRLSign");
  add_extension(made.get(), made.get(), NID_subject_key_identifier, "hash");
  return sign(made.get(), key.get(), key.get());
}

Certificate make_member(const Certificate& authority, const CertificateOptions& options) {
  const Authority by = parse(authority);
  const OpensslKey key = new_key();
  const OpensslCertificate made = begin_certificate(options, key.get(), "node");
  check(X509_set_issuer_name(made.get(), X509_get_subject_name(by.certificate.get())) == 1);
  add_extension(made.get(), by.certificate.get(), NID_basic_constraints, "critical,CA:FALSE");
  add_extension(made.get(), by.certificate.get(), NID_key_usage, "critical,digitalSignature");
  add_extension(made.get(), by.certificate.get(), NID_ext_key_usage, "serverAuth,clientAuth");
  add_extension(made.get(), by.certificate.get(), NID_subject_key_identifier, "hash");
  // Two authorities have the same name; this tells which one it was.
  add_extension(made.get(), by.certificate.get(), NID_authority_key_identifier, "keyid:always");
  return sign(made.get(), key.get(), by.key.get());
}

CertificateFiles CertificateFiles::in(const std::string& directory) {
  const std::string prefix = directory.ends_with('/') ? directory : directory + "/";
  return {prefix + "ca.pem", prefix + "ca.key", prefix + "node.pem", prefix + "node.key", prefix + "token"};
}

CertificateDates make_cluster_certificates(Runtime& runtime, const std::string& directory, std::chrono::days valid) {
  FileSystem& files = runtime.files();
  const CertificateFiles names = CertificateFiles::in(directory);
  const auto refuse_if = [](bool there, const std::string& name) {
    if (there) {
      fail(name + " is there already, and what it has signed would be worth nothing: choose another directory, or " +
           "make a new member of the same authority with --renew");
    }
  };
  refuse_if(files.stat(names.authority).has_value(), names.authority);
  const CertificateOptions options = valid_for(runtime, valid);
  const Certificate authority = make_authority(valid_for(runtime, std::max(valid, std::chrono::days(3650))));
  const Certificate member = make_member(authority, options);
  files.make_directories(directory);
  refuse_if(!files.publish_new(names.authority_key, authority.key, Readers::owner), names.authority_key);
  publish_member(files, names, member);
  std::array<unsigned char, 32> secret{};
  check(RAND_bytes(secret.data(), static_cast<int>(secret.size())) == 1);
  constexpr std::string_view digits = "0123456789abcdef";
  std::string token;
  for (const unsigned char byte : secret) {
    token += digits[byte >> 4U];
    token += digits[byte & 15U];
  }
  files.publish(names.token, token, Readers::owner);
  // Last: with it all is there.
  refuse_if(!files.publish_new(names.authority, authority.certificate), names.authority);
  return {until(authority), until(member)};
}

CertificateDates renew_member_certificate(Runtime& runtime, const std::string& directory, std::chrono::days valid) {
  FileSystem& files = runtime.files();
  const CertificateFiles names = CertificateFiles::in(directory);
  const Certificate authority{read_file(files, names.authority, file_bytes_max),
                              read_private_key(files, names.authority_key)};
  const Authority by = parse(authority);
  CertificateOptions options = valid_for(runtime, valid);
  const ASN1_TIME* const end = X509_get0_notAfter(by.certificate.get());
  std::time_t now = detail::to_seconds(runtime.clock().now());
  if (X509_cmp_time(end, &now) < 0) fail(names.authority + " has expired on " + detail::to_text(end));
  std::tm last{};
  check(ASN1_TIME_to_tm(end, &last) == 1);
  // In seconds, since there are authorities until the year 9999.
  options.until = Time(std::chrono::seconds(std::min(detail::to_seconds(options.until), ::timegm(&last))));
  const Certificate member = make_member(authority, options);
  publish_member(files, names, member);
  return {until(authority), until(member)};
}

std::string read_private_key(FileSystem& files, const std::string& path) {
  const std::unique_ptr<File> file = files.open(path);
  if (!file) throw Error(Code::not_readable, {.why = path + ": no such file"});
  // Of the open file, not of the name: it cannot become another one in between.
  const FileInfo info = file->info();
  if ((info.mode & 077U) != 0) {
    fail(path + " may be read by others than its owner; do: chmod 600 " + path);
  }
  if (info.size_bytes > file_bytes_max) fail(path + " is too large for a private key");
  std::string text(static_cast<std::size_t>(info.size_bytes), '\0');
  text.resize(file->read_at(0, text));
  return text;
}

}  // namespace sluice
