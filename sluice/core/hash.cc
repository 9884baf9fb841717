#include "sluice/core/hash.h"

#include "sluice/runtime/errors.h"

namespace sluice::detail {

std::uint64_t hash_long(std::uint64_t seed, const char* bytes, std::size_t size) {
  SLUICE_ASSERT(size > hash_short_bytes);
  std::uint64_t state = seed ^ size;
  const char* p = bytes;
  std::size_t left = size;
  while (left > 16) {
    state = hash_mix(load64(p) ^ hash_k0, load64(p + 8) ^ state);
    p += 16;
    left -= 16;
  }
  // The last 16 bytes, overlapping what came before; keys of 13..15 bytes overlap within themselves.
  const char* tail = bytes + size;
  const std::uint64_t lo = size >= 16 ? load64(tail - 16) : load64(bytes);
  const std::uint64_t hi = load64(tail - 8);
  state = hash_mix(lo ^ hash_k0, hi ^ state);
  return hash_mix(state ^ hash_k1, hash_k0 ^ size);
}

}  // namespace sluice::detail
