#include "sluice/runtime/posix.h"

#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "sluice/runtime/errors.h"

namespace sluice::detail {

Descriptor::~Descriptor() {
  // No retry on EINTR: Linux has closed it by then, and the number may already belong to another thread.
  if (number_ >= 0) ::close(number_);
}

std::string errno_text(int error) {
  return std::generic_category().message(error) + " (errno " + std::to_string(error) + ")";
}

std::uint64_t system_random_bits() {
  std::uint64_t bits = 0;
  // Up to 256 bytes come whole or not at all.
  while (::getrandom(&bits, sizeof bits, 0) != sizeof bits) {
    if (errno != EINTR) throw Error(Code::io_failed, {.why = "getrandom: " + errno_text(errno)});
  }
  return bits;
}

}  // namespace sluice::detail
