#include "sluice/runtime/checksum.h"

#include <array>
#include <cstddef>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace sluice {
namespace {

// Slicing by 8 (Kounavis and Berry, 2005): table k holds the remainder of a byte followed by k zero bytes.
using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr Tables make_tables() {
  // The Castagnoli polynomial 0x1EDC6F41 with its bits in the order in which they are sent.
  constexpr std::uint32_t polynomial = 0x82F63B78;
  Tables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t remainder = byte;
    for (int bit = 0; bit < 8; ++bit) remainder = (remainder >> 1) ^ ((remainder & 1) != 0 ? polynomial : 0);
    tables[0][byte] = remainder;
  }
  for (std::size_t k = 1; k < tables.size(); ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8) ^ tables[0][before & 0xFF];
    }
  }
  return tables;
}

constexpr Tables tables = make_tables();

std::uint32_t step(std::uint32_t crc, char byte) {
  return (crc >> 8) ^ tables[0][(crc ^ static_cast<unsigned char>(byte)) & 0xFF];
}

#if defined(__x86_64__)
// The instruction takes three cycles and one can begin in each, so three pieces are worked on at a time (Gopal et al.,
// "Fast CRC Computation for iSCSI Polynomial Using CRC32 Instruction", 2011).
constexpr std::size_t piece_bytes = 1024;

// What a remainder becomes when a piece of zeros follows: that is linear, so there is a table for each of its bytes.
using Shift = std::array<std::array<std::uint32_t, 256>, 4>;

constexpr Shift make_shift() {
  std::array<std::uint32_t, 32> of_bit{};
  for (std::size_t bit = 0; bit < of_bit.size(); ++bit) {
    std::uint32_t remainder = std::uint32_t{1} << bit;
    for (std::size_t i = 0; i < piece_bytes; ++i) remainder = (remainder >> 8) ^ tables[0][remainder & 0xFF];
    of_bit[bit] = remainder;
  }
  Shift shift{};
  for (std::size_t k = 0; k < shift.size(); ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      for (std::size_t bit = 0; bit < 8; ++bit) shift[k][byte] ^= ((byte >> bit) & 1) != 0 ? of_bit[8 * k + bit] : 0;
    }
  }
  return shift;
}

constexpr Shift shift = make_shift();

std::uint32_t before_a_piece(std::uint64_t crc) {
  return shift[0][crc & 0xFF] ^ shift[1][(crc >> 8) & 0xFF] ^ shift[2][(crc >> 16) & 0xFF] ^
         shift[3][(crc >> 24) & 0xFF];
}

std::uint64_t word_at(const char* at) {
  std::uint64_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

__attribute__((target("sse4.2"))) std::uint32_t crc32c_by_instruction(std::string_view bytes, std::uint32_t seed) {
  std::uint64_t crc = ~seed;
  const char* at = bytes.data();
  const char* const end = at + bytes.size();
  for (; end - at >= static_cast<std::ptrdiff_t>(3 * piece_bytes); at += 3 * piece_bytes) {
    std::uint64_t second = 0;
    std::uint64_t third = 0;
    for (std::size_t i = 0; i < piece_bytes; i += 8) {
      crc = _mm_crc32_u64(crc, word_at(at + i));
      second = _mm_crc32_u64(second, word_at(at + piece_bytes + i));
      third = _mm_crc32_u64(third, word_at(at + 2 * piece_bytes + i));
    }
    crc = before_a_piece(before_a_piece(crc) ^ second) ^ third;
  }
  for (; end - at >= 8; at += 8) crc = _mm_crc32_u64(crc, word_at(at));
  auto rest = static_cast<std::uint32_t>(crc);
  for (; at != end; ++at) rest = _mm_crc32_u8(rest, static_cast<unsigned char>(*at));
  return ~rest;
}
#endif

using Function = std::uint32_t (*)(std::string_view, std::uint32_t);

Function choose() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("sse4.2")) return crc32c_by_instruction;
#endif
  return detail::crc32c_by_table;
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes, std::uint32_t seed) {
  static const Function function = choose();
  return function(bytes, seed);
}

namespace detail {

std::uint32_t crc32c_by_table(std::string_view bytes, std::uint32_t seed) {
  std::uint32_t crc = ~seed;
  while (bytes.size() >= 8) {
    std::uint32_t next = 0;
    // Byte by byte, so that it is the same on a CPU of the other byte order.
    for (std::size_t i = 0; i < 8; ++i) {
      const std::uint32_t mixed = i < 4 ? crc >> (8 * i) : 0;
      next ^= tables[7 - i][(mixed ^ static_cast<unsigned char>(bytes[i])) & 0xFF];
    }
    crc = next;
    bytes.remove_prefix(8);
  }
  for (char byte : bytes) crc = step(crc, byte);
  return ~crc;
}

}  // namespace detail
}  // namespace sluice
