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
#if defined(__SSE2__)
  // Reading past the end is safe inside a page: the kernel maps whole pages. Sanitizers do not know that. An empty text
  // may lie nowhere at all.
  if (reads_beyond && size != 0 && (reinterpret_cast<std::uintptr_t>(p) & 4095U) <= 4096U - 16U) {
    asm("" : "+r"(p));  // the compiler must not see how large the text is
    // From here + 16 - n on: n bytes to keep.
    alignas(64) static constexpr std::uint64_t keep[4] = {~0ULL, ~0ULL, 0, 0};
    const char* const mask = reinterpret_cast<const char*>(keep) + 16 - size;
    const __m128i bytes = _mm_and_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)),
                                        _mm_loadu_si128(reinterpret_cast<const __m128i*>(mask)));
    const __m128i words = _mm_or_si128(_mm_slli_si128(bytes, 4), _mm_cvtsi32_si128(static_cast<int>(size)));
    return {static_cast<std::uint64_t>(_mm_cvtsi128_si64(words)),
            static_cast<std::uint64_t>(_mm_cvtsi128_si64(_mm_unpackhi_epi64(words, words)))};
  }
#endif
  char bytes[16] = {};
  const auto length = static_cast<std::uint32_t>(size);
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
