// The hash of keys, "sluice-hash-1".
//
// It decides which partition and key group a key belongs to, so it reaches disk and wire: algorithm, constants and
// the bytes it is taken over are fixed, the same on every CPU, and described in docs/formats.md. Text is hashed over
// its bytes, plain values over their little-endian bytes, all else over its codec's bytes. Construction: folded
// 64x64 -> 128 bit multiplications, as in wyhash (Wang Yi).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace sluice::detail {

inline constexpr std::uint64_t hash_k0 = 0xa0761d6478bd642fULL;
inline constexpr std::uint64_t hash_k1 = 0xe7037ed1a0b428dbULL;
/// Keys of at most this many bytes are hashed (and stored, see text.h) as two words.
inline constexpr std::size_t hash_short_bytes = 12;

inline std::uint64_t hash_mix(std::uint64_t a, std::uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

/// Hash of a key of at most 12 bytes in its two-word form: `lo` = length | first 4 bytes << 32, `hi` = next 8 bytes,
/// missing bytes zero.
inline std::uint64_t hash_words(std::uint64_t seed, std::uint64_t lo, std::uint64_t hi) {
  return hash_mix(lo ^ seed ^ hash_k0, hi ^ hash_k1);
}

std::uint64_t hash_long(std::uint64_t seed, const char* bytes, std::size_t size);

inline std::uint64_t load64(const char* p) {
  std::uint64_t word;
  std::memcpy(&word, p, 8);
  return word;
}

inline std::uint32_t load32(const char* p) {
  std::uint32_t word;
  std::memcpy(&word, p, 4);
  return word;
}

/// Hash of a value of a fixed size (the compiler folds the branches).
template <std::size_t Size>
std::uint64_t hash_fixed(std::uint64_t seed, const char* bytes) {
  if constexpr (Size <= hash_short_bytes) {
    char words[16] = {};
    const std::uint32_t size = Size;
    std::memcpy(words, &size, 4);
    std::memcpy(words + 4, bytes, Size);
    return hash_words(seed, load64(words), load64(words + 8));
  } else {
    return hash_long(seed, bytes, Size);
  }
}

/// Fixed number of key groups: the unit in which keyed state is saved and moved. A power of two.
inline constexpr std::uint32_t key_group_bits = 10;
inline constexpr std::uint32_t key_groups = 1U << key_group_bits;

inline std::uint32_t key_group(std::uint64_t hash) { return static_cast<std::uint32_t>(hash >> (64 - key_group_bits)); }
/// The partition that holds a key group: ranges of groups, so that a change of the partition count moves few groups.
inline std::uint32_t partition_of_group(std::uint64_t group, std::size_t partitions) {
  return static_cast<std::uint32_t>((group * partitions) >> key_group_bits);
}
inline std::uint32_t partition_of_hash(std::uint64_t hash, std::size_t partitions) {
  return partition_of_group(key_group(hash), partitions);
}
/// The first of the key groups that partition `partition` of `partitions` holds.
constexpr std::uint32_t first_group_of(std::size_t partition, std::size_t partitions) {
  return static_cast<std::uint32_t>((partition * key_groups + partitions - 1) / partitions);
}
static_assert(first_group_of(1, 2) == key_groups / 2 && first_group_of(3, 3) == key_groups);

}  // namespace sluice::detail
