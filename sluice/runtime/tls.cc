// TLS over a connection, by OpenSSL, which never sees the connection: it reads from and writes to memory.
//
// Threads: `mutex_` guards OpenSSL's object and all that is not said to be otherwise. It is not held while the
// connection below is read or written (that may wait), only while it is closed.
//
// Invariants:
// T1. Until `is_open_`, one thread makes the handshake (`shaking_`), and it alone reads and writes below; others wait.
// T2. Then the reader alone reads below, and the writer alone writes below (`writing_`). What OpenSSL wants to say
//     while the reader is at work (the answer to a request for new keys) stays in `wire_.outgoing` until the next write
//     takes it along. TLS allows that (RFC 8446, 4.6.3: "prior to sending its next Application Data record"); a reader
//     that wrote could wait for a peer whose reader waits for us.
// T3. `wire_.arrived` is given to OpenSSL in whole and used up before more is read.
#include "sluice/runtime/tls.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <utility>

#include "sluice/runtime/certificates.h"
#include "sluice/runtime/errors.h"
#include "sluice/runtime/openssl.h"

namespace sluice {

/// See tls.h.
class TlsIdentity {
 public:
  explicit TlsIdentity(detail::OpensslContext context) : context_(std::move(context)) {}
  SSL_CTX* context() const { return context_.get(); }

 private:
  const detail::OpensslContext context_;
};

namespace {

using detail::OpensslCertificate;
using detail::OpensslContext;
using detail::OpensslKey;
using detail::OpensslSession;
using detail::to_text;

// ---- certificates ----

bool has_organization(const X509_NAME* subject, std::string_view wanted) {
  const int at = X509_NAME_get_index_by_NID(subject, NID_organizationName, -1);
  if (at < 0) return false;
  const ASN1_STRING* const value = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at));
  const std::string_view text(reinterpret_cast<const char*>(ASN1_STRING_get0_data(value)),
                              static_cast<std::size_t>(ASN1_STRING_length(value)));
  return text == wanted;
}

// OpenSSL takes a certificate that does not say what it is for as one for everything; a member's says it.
bool is_member(X509* certificate) {
  const std::uint32_t both = XKU_SSL_SERVER | XKU_SSL_CLIENT;
  return (X509_get_extension_flags(certificate) & EXFLAG_XKUSAGE) != 0 &&
         (X509_get_extended_key_usage(certificate) & both) == both &&
         has_organization(X509_get_subject_name(certificate), cluster_organization);
}

constexpr int error_not_member = X509_V_ERR_APPLICATION_VERIFICATION;

// What is wrong, to follow "the peer's certificate " or "the certificate FILE ".
std::string certificate_problem(X509_STORE_CTX* checked) {
  const int error = X509_STORE_CTX_get_error(checked);
  const X509* const at = X509_STORE_CTX_get_current_cert(checked);
  const std::string whose = X509_STORE_CTX_get_error_depth(checked) > 0 ? "is of an authority that " : "";
  switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED: return whose + "has expired on " + to_text(X509_get0_notAfter(at));
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return whose + "is not valid before " + to_text(X509_get0_notBefore(at)) + " (or a clock is wrong)";
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE: return "is of another authority";
    case X509_V_ERR_INVALID_PURPOSE:
    case error_not_member:
      return "is not that of a member (organization \"" + std::string(cluster_organization) +
             "\", for both ends of TLS)";
    default: return std::string("is refused: ") + X509_verify_cert_error_string(error);
  }
}

[[noreturn]] void throw_bad(const std::string& why) { throw Error(Code::bad_certificate, {.why = why}); }

void check_openssl(bool done) {
  if (!done) throw_bad("OpenSSL: " + detail::openssl_failure());
}

constexpr std::uint64_t file_bytes_max = 1 << 20;

std::vector<OpensslCertificate> read_certificates(FileSystem& files, const std::string& path) {
  std::vector<OpensslCertificate> all = detail::parse_certificates(read_file(files, path, file_bytes_max));
  if (all.empty()) throw_bad(path + " is no PEM certificate");
  return all;
}

// The check that each peer will make of it.
void check_own(SSL_CTX* context, X509* certificate, const TlsFiles& files, Time now) {
  const std::unique_ptr<X509_STORE_CTX, detail::Released<X509_STORE_CTX_free>> check(X509_STORE_CTX_new());
  check_openssl(check && X509_STORE_CTX_init(check.get(), SSL_CTX_get_cert_store(context), certificate, nullptr) == 1);
  X509_STORE_CTX_set_time(check.get(), 0, detail::to_seconds(now));
  bool good = X509_verify_cert(check.get()) == 1;
  if (good && !is_member(certificate)) {
    X509_STORE_CTX_set_error_depth(check.get(), 0);
    X509_STORE_CTX_set_error(check.get(), error_not_member);
    good = false;
  }
  if (!good) throw_bad(files.certificate + " " + certificate_problem(check.get()) + " (" + files.authority + ")");
}

// ---- OpenSSL's end of the connection: memory ----

// Plain bytes that are encrypted at a time, while a reader may wait for the lock: some 20 us.
constexpr std::size_t chunk_bytes = 64 << 10;
// Encrypted bytes that are read from below at a time.
constexpr std::size_t arriving_bytes = 64 << 10;
// Answers to requests for new keys that wait for a writer. A peer that asks for more, some 2,000, means no good.
constexpr std::size_t unsent_bytes_max = 64 << 10;

/// Between OpenSSL and the connection below.
struct Wire {
  /// What is read from below: bytes [taken, end) are still for OpenSSL.
  std::string arrived = std::string(arriving_bytes, '\0');
  std::size_t taken = 0;
  std::size_t end = 0;
  std::string outgoing;
};

int read_wire(BIO* bio, char* into, std::size_t size, std::size_t* count) {
  Wire& wire = *static_cast<Wire*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  *count = std::min(size, wire.end - wire.taken);
  if (*count == 0) {
    BIO_set_retry_read(bio);
    return 0;
  }
  std::memcpy(into, wire.arrived.data() + wire.taken, *count);
  wire.taken += *count;
  return 1;
}

int write_wire(BIO* bio, const char* bytes, std::size_t size, std::size_t* count) {
  static_cast<Wire*>(BIO_get_data(bio))->outgoing.append(bytes, size);
  *count = size;
  return 1;
}

// OpenSSL flushes after each flight, and asks no more.
long control_wire(BIO*, int what, long, void*) { return what == BIO_CTRL_FLUSH ? 1 : 0; }

const BIO_METHOD* wire_method() {
  static const BIO_METHOD* const method = [] {
    BIO_METHOD* const made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "sluice connection");
    SLUICE_ASSERT(made != nullptr);
    BIO_meth_set_read_ex(made, read_wire);
    BIO_meth_set_write_ex(made, write_wire);
    BIO_meth_set_ctrl(made, control_wire);
    return made;
  }();
  return method;
}

// What the last error of OpenSSL means.
std::string openssl_problem() {
  const unsigned long error = ERR_peek_last_error();
  switch (ERR_GET_LIB(error) == ERR_LIB_SSL ? ERR_GET_REASON(error) : 0) {
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE: return "the peer has no certificate";
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_UNKNOWN_PROTOCOL:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
    case SSL_R_ENCRYPTED_LENGTH_TOO_LONG:
    case SSL_R_BAD_RECORD_TYPE: return "the peer does not speak TLS";
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_NO_PROTOCOLS_AVAILABLE:
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION: return "the peer does not speak TLS 1.3";
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA: return "the peer refuses our certificate, as of another authority";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED: return "the peer refuses our certificate, as expired or not yet valid";
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED: return "the peer refuses our certificate";
    default: return "TLS: " + detail::openssl_failure();
  }
}

constexpr const char* no_time = "the deadline passed in the handshake";

[[noreturn]] void throw_failed(const std::string& why) { throw Error(Code::network_failed, {.why = why}); }

class TlsConnection final : public Connection {
 public:
  TlsConnection(Runtime& runtime, std::shared_ptr<const TlsIdentity> identity, TlsRole role,
                std::unique_ptr<Connection> below, TlsOptions options)
      : clock_(runtime.clock()),
        options_(options),
        identity_(std::move(identity)),
        below_(std::move(below)),
        session_(SSL_new(identity_->context())),
        progress_(runtime.condition()),
        arriving_(arriving_bytes, '\0') {
    BIO* const bio = session_ ? BIO_new(wire_method()) : nullptr;
    if (bio == nullptr) throw_failed(named("OpenSSL: " + detail::openssl_failure()));
    BIO_set_data(bio, &wire_);
    BIO_set_init(bio, 1);
    SSL_set_bio(session_.get(), bio, bio);
    SSL_set_app_data(session_.get(), this);
    role == TlsRole::client ? SSL_set_connect_state(session_.get()) : SSL_set_accept_state(session_.get());
  }

  ~TlsConnection() override { close_once(); }

  std::optional<std::size_t> read(std::span<char> into, Time deadline) override {
    // 0 would look like the end of the stream.
    SLUICE_ASSERT(!into.empty());
    if (!shake_hands(deadline)) return std::nullopt;
    bool progressed = false;
    while (true) {
      {
        const std::lock_guard lock(mutex_);
        if (const std::optional<std::size_t> count = decrypt(into)) return count;
      }
      // Below may always have something that is nothing for the reader.
      if (progressed && deadline <= clock_.now()) return std::nullopt;
      const std::optional<std::size_t> count = below_->read(arriving_, deadline);
      if (!count) return std::nullopt;
      const std::lock_guard lock(mutex_);
      if (*count == 0) {
        if (read_failure_.empty()) read_failure_ = named("the stream was cut off: it ends without the end of TLS");
        throw_failed(read_failure_);
      }
      take_arrived(*count);
      progressed = true;
    }
  }

  void write(std::string_view bytes, Time deadline) override {
    if (!shake_hands(deadline)) throw_failed(named(no_time));
    while (!bytes.empty()) {
      {
        const std::lock_guard lock(mutex_);
        bytes.remove_prefix(encrypt(bytes));
        writing_ = true;
        sending_.swap(wire_.outgoing);
      }
      try {
        below_->write(sending_, deadline);
      } catch (...) {
        const std::lock_guard lock(mutex_);
        writing_ = false;
        // Part of a record may be out, so no other can follow.
        write_failure_ = named("an earlier write has failed");
        throw;
      }
      const std::lock_guard lock(mutex_);
      writing_ = false;
      sending_.clear();
    }
  }

  void close() override { close_once(); }

  std::string peer() const override { return below_->peer(); }

  /// True when the connection is open, false when `deadline` passed. Errors: SLU-402.
  bool shake_hands(Time deadline) {
    std::unique_lock lock(mutex_);
    while (true) {
      if (closed_) throw_closed();
      if (is_open_) return true;
      if (!read_failure_.empty()) throw_failed(read_failure_);
      if (!shaking_) break;
      if (deadline <= clock_.now()) return false;
      progress_->wait_until(lock, deadline);
    }
    shaking_ = true;
    if (!handshake_deadline_) begin_handshake();
    const Time last = *handshake_deadline_;
    lock.unlock();

    std::string failure;
    bool done = false;
    try {
      done = try_handshake(deadline, last);
    } catch (const Error& error) {
      failure = error.details().why;
    }
    lock.lock();
    shaking_ = false;
    is_open_ = done;
    if (!failure.empty()) {
      read_failure_ = write_failure_ = failure;
      // With the alert that tells the peer why, if there is one.
      below_->close_with(wire_.outgoing);
    }
    progress_->notify_all();
    if (closed_) throw_closed();
    if (!failure.empty()) throw_failed(failure);
    return done;
  }

  /// Called by OpenSSL while it checks the peer's certificate.
  static int check_peer(int good, X509_STORE_CTX* checked) {
    if (good == 1 && X509_STORE_CTX_get_error_depth(checked) == 0 &&
        !is_member(X509_STORE_CTX_get_current_cert(checked))) {
      X509_STORE_CTX_set_error(checked, error_not_member);
      good = 0;
    }
    if (good == 0) {
      const auto* const session =
          static_cast<SSL*>(X509_STORE_CTX_get_ex_data(checked, SSL_get_ex_data_X509_STORE_CTX_idx()));
      auto* const self = static_cast<TlsConnection*>(SSL_get_app_data(session));
      self->peer_problem_ = "the peer's certificate " + certificate_problem(checked);
    }
    return good;
  }

 private:
  std::string named(const std::string& why) const { return "TLS with " + below_->peer() + ": " + why; }
  [[noreturn]] void throw_closed() const { throw_failed(named("the connection was closed on this side")); }

  void begin_handshake() {
    const Time now = clock_.now();
    handshake_deadline_ = now + options_.handshake_time_max;
    X509_VERIFY_PARAM_set_time(SSL_get0_param(session_.get()), detail::to_seconds(now));
  }

  // Goes on with the handshake; false when `deadline` passed. `last` is that of the whole handshake.
  bool try_handshake(Time deadline, Time last) {
    const Time until = std::min(deadline, last);
    while (true) {
      bool done = false;
      {
        const std::lock_guard lock(mutex_);
        ERR_clear_error();
        const int result = SSL_do_handshake(session_.get());
        done = result == 1;
        if (!done && SSL_get_error(session_.get(), result) != SSL_ERROR_WANT_READ) throw_failed(named(problem()));
        sending_.swap(wire_.outgoing);
      }
      if (!sending_.empty()) below_->write(sending_, until);
      sending_.clear();
      if (done) return true;
      const std::optional<std::size_t> count = below_->read(arriving_, until);
      if (clock_.now() >= last) throw_failed(named("the peer did not finish the handshake in time"));
      if (!count) return false;
      if (*count == 0) throw_failed(named("the peer ended the connection in the handshake"));
      const std::lock_guard lock(mutex_);
      take_arrived(*count);
    }
  }

  // All below are called under the mutex.

  void take_arrived(std::size_t count) {
    SLUICE_ASSERT(wire_.taken == wire_.end);  // T3
    wire_.arrived.swap(arriving_);
    wire_.taken = 0;
    wire_.end = count;
  }

  std::string problem() {
    if (peer_problem_.empty()) return openssl_problem();
    ERR_clear_error();
    return peer_problem_;
  }

  // What has arrived for the reader; nullopt when that is nothing.
  std::optional<std::size_t> decrypt(std::span<char> into) {
    if (closed_) throw_closed();
    if (!read_failure_.empty()) throw_failed(read_failure_);
    std::size_t got = 0;
    int error = SSL_ERROR_NONE;
    while (got < into.size() && error == SSL_ERROR_NONE) {
      std::size_t count = 0;
      ERR_clear_error();
      const int result = SSL_read_ex(session_.get(), into.data() + got, into.size() - got, &count);
      got += count;
      if (result != 1) error = SSL_get_error(session_.get(), result);
    }
    // What came before an end or an error is given first; OpenSSL says the rest again at the next call.
    if (error == SSL_ERROR_ZERO_RETURN) return got;
    if (error != SSL_ERROR_NONE && error != SSL_ERROR_WANT_READ) {
      break_off(problem());
    } else if (wire_.outgoing.size() > unsent_bytes_max && !writing_) {
      break_off("the peer asks for new keys too often");
    }
    if (got > 0) return got;
    if (!read_failure_.empty()) throw_failed(read_failure_);
    return std::nullopt;
  }

  // Encrypts the beginning of `bytes` and says how much of it.
  std::size_t encrypt(std::string_view bytes) {
    if (closed_) throw_closed();
    if (!write_failure_.empty()) throw_failed(write_failure_);
    SLUICE_ASSERT(!writing_);  // one writer
    ERR_clear_error();
    if (key_bytes_ >= options_.key_bytes_max) {
      SSL_key_update(session_.get(), SSL_KEY_UPDATE_NOT_REQUESTED);
      key_bytes_ = 0;
    }
    std::size_t count = 0;
    if (SSL_write_ex(session_.get(), bytes.data(), std::min(bytes.size(), chunk_bytes), &count) != 1) {
      break_off(problem());
      throw_failed(write_failure_);
    }
    key_bytes_ += count;
    return count;
  }

  // After an error of TLS, of which OpenSSL wants to tell the peer.
  void break_off(const std::string& why) {
    read_failure_ = write_failure_ = named(why);
    writing_ ? below_->close() : below_->close_with(wire_.outgoing);
  }

  void close_once() {
    const std::lock_guard lock(mutex_);
    if (std::exchange(closed_, true)) return;
    progress_->notify_all();
    if (!is_open_ || writing_ || !write_failure_.empty()) return below_->close();
    ERR_clear_error();
    SSL_shutdown(session_.get());
    ERR_clear_error();
    below_->close_with(wire_.outgoing);
  }

  const Clock& clock_;
  const TlsOptions options_;
  const std::shared_ptr<const TlsIdentity> identity_;
  const std::unique_ptr<Connection> below_;

  std::mutex mutex_;
  Wire wire_;  // outlives the session, whose BIO knows it
  const OpensslSession session_;
  const std::unique_ptr<Condition> progress_;
  std::optional<Time> handshake_deadline_;
  bool shaking_ = false;
  bool is_open_ = false;
  bool writing_ = false;
  bool closed_ = false;
  std::uint64_t key_bytes_ = 0;
  std::string read_failure_;
  std::string write_failure_;
  std::string peer_problem_;

  // Not guarded: of whoever reads below, and of whoever writes below (T1, T2).
  std::string arriving_;
  std::string sending_;
};

// ---- the transport ----

/// What all connections of a transport are made with.
struct Maker {
  Runtime& runtime;
  std::shared_ptr<const TlsIdentity> identity;
  TlsOptions options;

  std::unique_ptr<TlsConnection> make(TlsRole role, std::unique_ptr<Connection> below) const {
    return std::make_unique<TlsConnection>(runtime, identity, role, std::move(below), options);
  }
};

class TlsConnector final : public Connector {
 public:
  TlsConnector(Maker maker, std::unique_ptr<Connector> below) : maker_(std::move(maker)), below_(std::move(below)) {}

  std::unique_ptr<Connection> connect(Time deadline) override {
    std::unique_ptr<TlsConnection> made = maker_.make(TlsRole::client, below_->connect(deadline));
    {
      const std::lock_guard lock(mutex_);
      connecting_ = made.get();
      if (closed_) made->close();
    }
    bool done = false;
    try {
      done = made->shake_hands(deadline);
    } catch (...) {
      forget();
      throw;
    }
    forget();
    if (!done) throw_failed("TLS with " + made->peer() + ": " + no_time);
    return made;
  }

  void close() override {
    below_->close();
    const std::lock_guard lock(mutex_);
    closed_ = true;
    if (connecting_ != nullptr) connecting_->close();
  }

 private:
  void forget() {
    const std::lock_guard lock(mutex_);
    connecting_ = nullptr;
  }

  const Maker maker_;
  const std::unique_ptr<Connector> below_;
  std::mutex mutex_;
  TlsConnection* connecting_ = nullptr;
  bool closed_ = false;
};

class TlsListener final : public Listener {
 public:
  TlsListener(Maker maker, std::unique_ptr<Listener> below) : maker_(std::move(maker)), below_(std::move(below)) {}

  std::unique_ptr<Connection> accept(Time deadline) override {
    std::unique_ptr<Connection> accepted = below_->accept(deadline);
    if (!accepted) return nullptr;
    return maker_.make(TlsRole::server, std::move(accepted));
  }

  Address address() const override { return below_->address(); }
  void close() override { below_->close(); }

 private:
  const Maker maker_;
  const std::unique_ptr<Listener> below_;
};

class TlsTransport final : public Transport {
 public:
  TlsTransport(Maker maker, Transport& below) : maker_(std::move(maker)), below_(below) {}

  std::unique_ptr<Connector> connector(const Address& address) override {
    return std::make_unique<TlsConnector>(maker_, below_.connector(address));
  }
  std::unique_ptr<Listener> listen(const Address& address) override { return listen_anywhere(address); }
  std::unique_ptr<Listener> listen_anywhere(const Address& address) override {
    return std::make_unique<TlsListener>(maker_, below_.listen_anywhere(address));
  }

 private:
  const Maker maker_;
  Transport& below_;
};

}  // namespace

TlsFiles TlsFiles::in(const std::string& directory) {
  const CertificateFiles names = CertificateFiles::in(directory);
  return {names.authority, names.certificate, names.key};
}

std::shared_ptr<const TlsIdentity> load_tls_identity(Runtime& runtime, const TlsFiles& files) {
  OpensslContext made(SSL_CTX_new(TLS_method()));
  check_openssl(made != nullptr);
  SSL_CTX* const context = made.get();
  check_openssl(SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1 &&
                SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) == 1);
  // AES with 128 bits first: it is enough, and the fastest by a little.
  check_openssl(SSL_CTX_set_ciphersuites(
                    context, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256") == 1);
  check_openssl(SSL_CTX_set1_groups_list(context, "X25519:P-256") == 1);
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  check_openssl(SSL_CTX_set_num_tickets(context, 0) == 1);
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, TlsConnection::check_peer);

  X509_STORE* const store = SSL_CTX_get_cert_store(context);
  for (const OpensslCertificate& authority : read_certificates(runtime.files(), files.authority)) {
    check_openssl(X509_STORE_add_cert(store, authority.get()) == 1);
  }
  const OpensslCertificate certificate = std::move(read_certificates(runtime.files(), files.certificate).front());
  const OpensslKey key = detail::parse_private_key(read_private_key(runtime.files(), files.key));
  if (!key) throw_bad(files.key + " is no PEM private key without a password");
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    ERR_clear_error();
    throw_bad("the key " + files.key + " does not fit the certificate " + files.certificate);
  }
  check_own(context, certificate.get(), files, runtime.clock().now());
  check_openssl(SSL_CTX_use_certificate(context, certificate.get()) == 1 &&
                SSL_CTX_use_PrivateKey(context, key.get()) == 1);
  return std::make_shared<TlsIdentity>(std::move(made));
}

std::unique_ptr<Connection> make_tls_connection(Runtime& runtime, std::shared_ptr<const TlsIdentity> identity,
                                                TlsRole role, std::unique_ptr<Connection> below, TlsOptions options) {
  return Maker{runtime, std::move(identity), options}.make(role, std::move(below));
}

std::unique_ptr<Transport> make_tls_transport(Runtime& runtime, Transport& below,
                                              std::shared_ptr<const TlsIdentity> identity, TlsOptions options) {
  return std::make_unique<TlsTransport>(Maker{runtime, std::move(identity), options}, below);
}

}  // namespace sluice
