// Text at rest: 16 bytes, strings of up to 12 bytes inline, longer ones as prefix and pointer.
//
// The layout known from Umbra, DuckDB and Arrow's string view: equality of most keys is two word compares, and keys
// in a table do not point back into the batch they came from (measured: 4x in a word count).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "sluice/core/arena.h"
#include "sluice/core/hash.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace sluice::detail {

/// Zero-filled 16 bytes beginning with the (at most 12) bytes of `text`, loaded without branching on its length.
/// May read up to 16 bytes from `text.data()`, never across a page the text does not touch.
struct ShortWords {
  std::uint64_t lo;  // length | first 4 bytes << 32
  std::uint64_t hi;  // next 8 bytes
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool reads_beyond = false;
#else
inline constexpr bool reads_beyond = true;
#endif

inline ShortWords short_words(const char* p, std::size_t size) {
  char bytes[16] = {};
  const auto length = static_cast<std::uint32_t>(size);
#if defined(__SSE2__)
  // Reading past the end is safe inside a page: the kernel maps whole pages. Sanitizers do not know that.
  if (reads_beyond && size != 0 && (reinterpret_cast<std::uintptr_t>(p) & 4095U) <= 4096U - 16U) {
    static constexpr std::uint64_t keep[13][2] = {
        {0, 0},
        {0xff, 0},
        {0xffff, 0},
        {0xffffff, 0},
        {0xffffffff, 0},
        {0xffffffffff, 0},
        {0xffffffffffff, 0},
        {0xffffffffffffff, 0},
        {~0ULL, 0},
        {~0ULL, 0xff},
        {~0ULL, 0xffff},
        {~0ULL, 0xffffff},
        {~0ULL, 0xffffffff},
    };
    const std::uint64_t a = load64(p) & keep[size][0];
    const std::uint64_t b = load64(p + 8) & keep[size][1];
    return {length | (a << 32), (a >> 32) | (b << 32)};
  }
#endif
  if (size != 0) std::memcpy(bytes, p, size);
  const std::uint64_t a = load64(bytes);
  const std::uint64_t b = load64(bytes + 8);
  return {length | (a << 32), (a >> 32) | (b << 32)};
}

/// A string that lies in 16 bytes, or in an arena when it is longer than 12.
class Text {
 public:
  Text() = default;
  /// A view of `text`, which must outlive it unless it is short.
  explicit Text(std::string_view text) : Text(text.data(), text.size()) {}
  Text(const char* p, std::size_t size) {
    if (size <= hash_short_bytes) {
      const ShortWords words = short_words(p, size);
      lo_ = words.lo;
      hi_ = words.hi;
    } else {
      lo_ = static_cast<std::uint32_t>(size) | (static_cast<std::uint64_t>(load32(p)) << 32);
      hi_ = reinterpret_cast<std::uint64_t>(p);
    }
  }

  std::size_t size() const { return static_cast<std::uint32_t>(lo_); }
  bool is_short() const { return size() <= hash_short_bytes; }
  const char* data() const {
    return is_short() ? reinterpret_cast<const char*>(this) + 4 : reinterpret_cast<const char*>(hi_);
  }
  std::string_view view() const { return {data(), size()}; }
  std::uint64_t hash(std::uint64_t seed) const {
    return is_short() ? hash_words(seed, lo_, hi_) : hash_long(seed, data(), size());
  }
  /// Moves the bytes of a long text into the arena.
  void rest(Arena& arena) {
    if (!is_short()) hi_ = reinterpret_cast<std::uint64_t>(arena.copy(view()).data());
  }

  friend bool operator==(const Text& a, const Text& b) {
    if (a.lo_ != b.lo_) return false;
    if (a.hi_ == b.hi_) return true;
    return !a.is_short() && std::memcmp(a.data(), b.data(), a.size()) == 0;
  }

 private:
  std::uint64_t lo_ = 0;
  std::uint64_t hi_ = 0;
};
static_assert(sizeof(Text) == 16);

}  // namespace sluice::detail
