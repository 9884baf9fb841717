// What a key is inside the engine: how it is hashed, kept and compared.
//
// Two keys are equal when their codec's bytes are. Text lies in 16 bytes (text.h), plain values lie as they are, all
// other keys are kept as the bytes of their codec, in a Text, and decoded when they leave. A double key therefore
// tells 0.0 from -0.0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "sluice/core/codec.h"
#include "sluice/core/text.h"

namespace sluice::detail {

template <class K>
inline constexpr bool is_text_key_v = std::is_same_v<K, std::string_view> || std::is_same_v<K, std::string>;

/// Kept form of text keys and of keys kept as codec bytes.
template <class K>
struct KeyTraits {
  using Kept = Text;
  /// Reused by `probe`; the Text of an encoded key points into it until the next call.
  struct Scratch {
    Encoder encoder;
  };
  static Text probe(const K& key, Scratch& scratch) {
    if constexpr (is_text_key_v<K>) {
      return Text(std::string_view(key));
    } else {
      scratch.encoder.clear();
      encode(key, scratch.encoder);
      return Text(scratch.encoder.view());
    }
  }
  static std::uint64_t hash(const Text& kept, std::uint64_t seed) { return kept.hash(seed); }
  static bool equal(const Text& a, const Text& b) { return a == b; }
  static void rest(Text& kept, Arena& arena) { kept.rest(arena); }
  /// Views point into `kept`, which must stay where it is.
  static K leave(const Text& kept) {
    if constexpr (is_text_key_v<K>) {
      return K(kept.view());
    } else {
      const std::string_view bytes = kept.view();
      Decoder in(bytes);
      return decode<K>(in);
    }
  }
};

template <class K>
  requires is_plain_v<K>
struct KeyTraits<K> {
  using Kept = K;
  struct Scratch {};
  static const K& probe(const K& key, Scratch&) { return key; }
  static std::uint64_t hash(const K& kept, std::uint64_t seed) {
    return hash_fixed<sizeof(K)>(seed, reinterpret_cast<const char*>(&kept));
  }
  static bool equal(const K& a, const K& b) { return std::memcmp(&a, &b, sizeof(K)) == 0; }
  static void rest(K&, Arena&) {}
  static const K& leave(const K& kept) { return kept; }
};

/// A record that is a (key, value) pair.
template <class T>
struct pair_parts : std::false_type {};
template <class K, class V>
struct pair_parts<std::pair<K, V>> : std::true_type {
  using Key = K;
  using Value = V;
};

}  // namespace sluice::detail

namespace sluice {

/// A record that is a std::pair: what the operators by key work on.
template <class T>
concept PairLike = detail::pair_parts<T>::value;

}  // namespace sluice
