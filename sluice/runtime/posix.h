// What the POSIX implementations of this layer share: an owned file descriptor, the words for errno, the factories.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "sluice/runtime/clock.h"
#include "sluice/runtime/filesystem.h"
#include "sluice/runtime/transport.h"

namespace sluice::detail {

/// A file descriptor with one owner, who closes it.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor();

  int get() const { return number_; }
  bool is_open() const { return number_ >= 0; }

 private:
  int number_ = -1;
};

/// The system's words for an errno.
std::string errno_text(int error);

/// 64 bits from the system's generator.
std::uint64_t system_random_bits();

/// The clock of `system_runtime()`.
const Clock& system_clock();

/// `FileSystem::rename_new` by a link and a removal, for file systems that cannot do it in one step.
bool rename_new_by_link(const std::string& from, const std::string& to);

/// The files of this machine.
std::unique_ptr<FileSystem> make_local_files();

/// The sockets of this machine. Deadlines are by `clock`, which must outlive the transport and its connections.
std::unique_ptr<Transport> make_posix_transport(const Clock& clock);

/// Takes over a connected stream socket; `peer` is what `Connection::peer()` says. Deadlines are by `clock`.
std::unique_ptr<Connection> adopt_socket(Descriptor socket, std::string peer, const Clock& clock);

}  // namespace sluice::detail
