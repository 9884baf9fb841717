// Values to bytes and back, checked at every byte.
//
//     sluice::Encoder out;
//     sluice::encode(std::pair{std::string_view("GET /"), 200}, out);
//     const std::string bytes = out.take();
//     sluice::Arena arena;                       // keeps the text of what is decoded
//     sluice::Decoder in(bytes, &arena);
//     auto hit = sluice::decode<std::pair<std::string_view, int>>(in);
//
// Built in: arithmetic and enum types, std::pair, tuple, optional, variant, vector, array, string, string_view, chrono
// durations and time points, std::monostate, and plain structs of all these, field by field (C arrays too). Pointers,
// references and spans are refused by the compiler: they mean nothing in another process. Any other type, and one that
// contains itself, gets a codec of its own:
//
//     template <>
//     struct sluice::codec<Url> {
//       static constexpr std::string_view name = "url";                         // optional: for schema_of
//       static void encode(const Url& url, sluice::Encoder& out) { out.text(url.str()); }
//       static Url decode(sluice::Decoder& in) { return Url(in.text()); }
//       static void rest(Url& url, sluice::Arena& arena);                       // only when Url holds views
//     };
//
// The format is prose in docs/formats.md, "records". Two rules make it safe to read bytes from anywhere: no size is
// believed before it was held against the bytes that are left (a sequence of n elements takes at least n bytes, padded
// where its elements are empty), and codecs may call each other `nesting_max` deep. The same value gives the same bytes
// on every CPU, and only those bytes are accepted, since the hash of a key is taken over them.
#pragma once

#include <array>
#include <bit>
#include <boost/pfr/detail/sequence_tuple.hpp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "sluice/core/arena.h"
#include "sluice/core/shape.h"

namespace sluice {

static_assert(std::endian::native == std::endian::little, "plain values are written as they lie in memory");
static_assert(sizeof(std::size_t) == 8, "sizes are written with 64 bits");

/// How deep codecs of users may call each other. A value nested deeper is refused when it is encoded, too.
inline constexpr int nesting_max = 64;

/// Appends values to bytes of its own.
///
/// Errors: std::bad_alloc; SLU-305 where codecs are nested too deep.
class Encoder {
 public:
  Encoder() = default;

  void u8(std::uint8_t value) { bytes_.push_back(static_cast<char>(value)); }
  void u16(std::uint16_t value) { fixed(value); }
  void u32(std::uint32_t value) { fixed(value); }
  void u64(std::uint64_t value) { fixed(value); }
  /// 7 bits a byte, low ones first, the eighth says that more follow: 1 byte below 128, at most 10.
  void varint(std::uint64_t value) {
    while (value >= 0x80) {
      u8(static_cast<std::uint8_t>(value | 0x80));
      value >>= 7;
    }
    u8(static_cast<std::uint8_t>(value));
  }
  /// The bytes alone; the reader must know how many.
  void bytes(std::string_view bytes) { bytes_.append(bytes); }
  void bytes(const void* from, std::size_t count) { bytes_.append(static_cast<const char*>(from), count); }
  /// Length as a varint, then the bytes.
  void text(std::string_view text) {
    varint(text.size());
    bytes_.append(text);
  }

  /// What was written so far. Valid until the next write.
  std::string_view view() const { return bytes_; }
  std::size_t size() const { return bytes_.size(); }
  void reserve(std::size_t bytes) { bytes_.reserve(bytes); }
  /// Forgets what was written and keeps the memory.
  void clear() { bytes_.clear(); }
  /// What was written; the encoder is empty afterwards.
  std::string take() { return std::exchange(bytes_, {}); }

  /// Held while a codec runs inside another; counts the depth.
  class Nesting {
   public:
    explicit Nesting(Encoder& encoder) : encoder_(encoder) {
      if (encoder.depth_ == nesting_max) fail_nesting();
      ++encoder.depth_;
    }
    ~Nesting() { --encoder_.depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    Encoder& encoder_;
  };

 private:
  template <class U>
  void fixed(U value) {
    bytes(&value, sizeof value);
  }
  [[noreturn]] static void fail_nesting();

  std::string bytes_;
  int depth_ = 0;
};

/// Reads values from bytes that may be damaged.
///
/// Lifetime: views it gives point into `arena`, or without one into `bytes`, which must then outlive them.
/// Errors:   SLU-302 where the bytes end too early, SLU-301 where they are no encoding of what is read.
class Decoder {
 public:
  explicit Decoder(std::string_view bytes, Arena* arena = nullptr)
      : begin_(bytes.data()), at_(begin_), end_(begin_ + bytes.size()), arena_(arena) {}

  std::uint8_t u8() { return fixed<std::uint8_t>(); }
  std::uint16_t u16() { return fixed<std::uint16_t>(); }
  std::uint32_t u32() { return fixed<std::uint32_t>(); }
  std::uint64_t u64() { return fixed<std::uint64_t>(); }
  std::uint64_t varint() {
    if (at_ != end_ && static_cast<unsigned char>(*at_) < 0x80) return static_cast<unsigned char>(*at_++);
    return long_varint();
  }
  /// A varint that counts things which take at least `element_bytes` each, held against the bytes that are left.
  std::size_t count(std::size_t element_bytes = 1) {
    const std::uint64_t count = varint();
    if (count > remaining() / element_bytes) fail_truncated(count, element_bytes);
    return count;
  }
  /// The next `count` bytes, where they lie in the input.
  std::string_view bytes(std::size_t count) {
    if (count > remaining()) fail_truncated(count, 1);
    const std::string_view result(at_, count);
    at_ += count;
    return result;
  }
  /// Copies the next `count` bytes to `to`.
  void bytes(void* to, std::size_t count) {
    const std::string_view from = bytes(count);
    if (count != 0) std::memcpy(to, from.data(), count);
  }
  /// A length and its bytes, where they lie in the input: for codecs that copy them.
  std::string_view text() { return bytes(count()); }
  /// A length and its bytes, in the arena if there is one: for codecs that keep the view.
  std::string_view kept_text() {
    const std::string_view lying = text();
    return arena_ == nullptr ? lying : arena_->copy(lying);
  }

  std::size_t remaining() const { return static_cast<std::size_t>(end_ - at_); }
  /// Bytes read so far.
  std::size_t position() const { return static_cast<std::size_t>(at_ - begin_); }
  Arena* arena() const { return arena_; }
  /// Fails with SLU-301 unless all bytes were read.
  void expect_end() const;

  /// Fails with SLU-301 and the position: for codecs that find a value out of its range.
  [[noreturn]] void fail_corrupt(std::string_view why) const;
  /// Fails with SLU-302: `count` things of `element_bytes` do not fit into what is left.
  [[noreturn]] void fail_truncated(std::uint64_t count, std::size_t element_bytes) const;

  /// Held while a codec runs inside another; counts the depth.
  class Nesting {
   public:
    explicit Nesting(Decoder& decoder) : decoder_(decoder) {
      if (decoder.depth_ == nesting_max) decoder.fail_corrupt("values are nested too deep");
      ++decoder.depth_;
    }
    ~Nesting() { --decoder_.depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    Decoder& decoder_;
  };

 private:
  template <class U>
  U fixed() {
    U value;
    bytes(&value, sizeof value);
    return value;
  }
  std::uint64_t long_varint();

  const char* begin_;
  const char* at_;
  const char* end_;
  Arena* arena_;
  int depth_ = 0;
};

/// Appends the bytes of `value`.
template <class T>
void encode(const T& value, Encoder& out);

/// Reads one T. Its views lie where the decoder puts them.
///
/// Errors: SLU-301, SLU-302 (see Decoder).
template <class T>
T decode(Decoder& in);

/// Moves what the views in `value` point to into `arena`. Does nothing where has_views_v<T> is false.
template <class T>
void rest(T& value, Arena& arena);

namespace detail {

// --- encode ---

template <class T, class F>
constexpr void for_each_field(T& value, F&& function) {
  auto fields = tie_fields(value);
  [&]<std::size_t... i>(std::index_sequence<i...>) {
    (function(boost::pfr::detail::sequence_tuple::get<i>(fields)), ...);
  }(std::make_index_sequence<decltype(fields)::size_v>());
}

template <class T>
void encode_vector(const T& values, Encoder& out) {
  using Element = typename T::value_type;
  out.varint(values.size());
  if constexpr (std::is_same_v<Element, bool>) {
    for (std::size_t at = 0; at < values.size(); at += 8) {
      unsigned byte = 0;
      for (std::size_t bit = 0; bit < 8 && at + bit < values.size(); ++bit) {
        byte |= static_cast<unsigned>(values[at + bit]) << bit;
      }
      out.u8(static_cast<std::uint8_t>(byte));
    }
  } else if constexpr (is_plain_v<Element>) {
    if (!values.empty()) out.bytes(values.data(), values.size() * sizeof(Element));
  } else {
    const std::size_t start = out.size();
    for (const Element& value : values) sluice::encode(value, out);
    // Elements may take no bytes; a sequence of n takes n at least, so that a reader can believe n.
    while (out.size() - start < values.size()) out.u8(0);
  }
}

[[noreturn]] void fail_valueless_variant();

template <class T>
void encode_value(const T& value, Encoder& out) {
  constexpr Kind kind = kind_v<T>;
  if constexpr (is_plain_v<T>) {
    out.bytes(&value, sizeof value);
  } else if constexpr (kind == Kind::custom) {
    const Encoder::Nesting nesting(out);
    codec<T>::encode(value, out);
  } else if constexpr (kind == Kind::boolean || kind == Kind::enumeration) {
    out.u8(static_cast<std::uint8_t>(value));
  } else if constexpr (kind == Kind::arithmetic) {
    // long double: x86 keeps 10 bytes of value in 16.
    out.bytes(&value, std::numeric_limits<T>::digits == 64 ? 10 : sizeof value);
  } else if constexpr (kind == Kind::view || kind == Kind::string) {
    out.text(std::string_view(value.data(), value.size()));
  } else if constexpr (kind == Kind::duration) {
    sluice::encode(value.count(), out);
  } else if constexpr (kind == Kind::time_point) {
    sluice::encode(value.time_since_epoch(), out);
  } else if constexpr (kind == Kind::pair) {
    sluice::encode(value.first, out);
    sluice::encode(value.second, out);
  } else if constexpr (kind == Kind::tuple) {
    std::apply([&](const auto&... each) { (sluice::encode(each, out), ...); }, value);
  } else if constexpr (kind == Kind::optional) {
    out.u8(value.has_value());
    if (value) sluice::encode(*value, out);
  } else if constexpr (kind == Kind::variant) {
    if (value.valueless_by_exception()) fail_valueless_variant();
    out.varint(value.index());
    std::visit([&](const auto& held) { sluice::encode(held, out); }, value);
  } else if constexpr (kind == Kind::vector) {
    encode_vector(value, out);
  } else if constexpr (kind == Kind::array || kind == Kind::c_array) {
    for (const auto& each : value) sluice::encode(each, out);
  } else if constexpr (kind == Kind::aggregate) {
    for_each_field(value, [&](const auto& field) { sluice::encode(field, out); });
  }
}

// --- decode ---

std::uint8_t decode_bool(Decoder& in);
void decode_padding(Decoder& in, std::size_t count);

template <class T>
T decode_plain(Decoder& in) {
  if constexpr (std::is_default_constructible_v<T>) {
    T value;
    in.bytes(static_cast<void*>(&value), sizeof value);
    return value;
  } else {
    struct Bytes {
      char bytes[sizeof(T)];
    } bytes;
    in.bytes(&bytes, sizeof bytes);
    return std::bit_cast<T>(bytes);
  }
}

template <class T>
T decode_vector(Decoder& in) {
  using Element = typename T::value_type;
  T values;
  if constexpr (std::is_same_v<Element, bool>) {
    const std::uint64_t count = in.varint();
    const std::string_view bits = in.bytes(count / 8 + (count % 8 != 0));
    values.resize(count);
    for (std::size_t i = 0; i < bits.size() * 8; ++i) {
      const bool bit = (static_cast<unsigned char>(bits[i / 8]) >> (i % 8) & 1) != 0;
      if (i < count) {
        values[i] = bit;
      } else if (bit) {
        in.fail_corrupt("a bit is set after the last one");
      }
    }
  } else if constexpr (is_plain_v<Element> && std::is_default_constructible_v<Element>) {
    const std::size_t count = in.count(sizeof(Element));
    values.resize(count);
    in.bytes(static_cast<void*>(values.data()), count * sizeof(Element));
  } else {
    const std::size_t count = in.count();
    const std::size_t before = in.remaining();
    // Elements may be larger in memory than in bytes: begin with memory that the input is worth.
    values.reserve(count < before / sizeof(Element) + 1 ? count : before / sizeof(Element) + 1);
    for (std::size_t i = 0; i < count; ++i) values.push_back(sluice::decode<Element>(in));
    const std::size_t taken = before - in.remaining();
    // A plain element without a default constructor is not padded by encode_vector, and needs none.
    if (taken < count) decode_padding(in, count - taken);
  }
  return values;
}

template <class T, std::size_t index = 0>
T decode_alternative(Decoder& in, std::size_t wanted) {
  if constexpr (index == std::variant_size_v<T>) {
    in.fail_corrupt("the index of a variant is out of range");
  } else {
    if (wanted != index) return decode_alternative<T, index + 1>(in, wanted);
    return T(std::in_place_index<index>, sluice::decode<std::variant_alternative_t<index, T>>(in));
  }
}

/// Decodes into a value that exists: for C arrays, which cannot be returned.
template <class T>
void decode_over(Decoder& in, T& value) {
  if constexpr (is_plain_v<T>) {
    in.bytes(static_cast<void*>(&value), sizeof value);
  } else if constexpr (std::is_array_v<T>) {
    for (auto& each : value) decode_over(in, each);
  } else {
    value = sluice::decode<T>(in);
  }
}

// The fields and parts are decoded within braces, which fixes their order.
template <class T, class... Ts>
T decode_parts(Decoder& in, Types<Ts...>) {
  if constexpr ((std::is_array_v<Ts> || ...)) {
    static_assert(std::is_default_constructible_v<T>, "sluice: a struct with a C array needs a default constructor");
    T value{};
    for_each_field(value, [&](auto& field) { decode_over(in, field); });
    return value;
  } else {
    return T{sluice::decode<std::remove_const_t<Ts>>(in)...};
  }
}

template <class T>
T decode_array(Decoder& in) {
  if constexpr (std::is_default_constructible_v<T>) {
    T value{};
    for (auto& each : value) decode_over(in, each);
    return value;
  } else {
    return [&]<std::size_t... i>(std::index_sequence<i...>) {
      return T{(static_cast<void>(i), sluice::decode<typename T::value_type>(in))...};
    }(std::make_index_sequence<std::tuple_size_v<T>>());
  }
}

template <class T>
T decode_value(Decoder& in) {
  constexpr Kind kind = kind_v<T>;
  if constexpr (is_plain_v<T>) {
    return decode_plain<T>(in);
  } else if constexpr (kind == Kind::custom) {
    const Decoder::Nesting nesting(in);
    return codec<T>::decode(in);
  } else if constexpr (kind == Kind::boolean || kind == Kind::enumeration) {
    return static_cast<T>(decode_bool(in));
  } else if constexpr (kind == Kind::arithmetic) {
    T value = 0;
    in.bytes(&value, std::numeric_limits<T>::digits == 64 ? 10 : sizeof value);
    return value;
  } else if constexpr (kind == Kind::view) {
    return in.kept_text();
  } else if constexpr (kind == Kind::string) {
    return T(in.text());
  } else if constexpr (kind == Kind::unit) {
    return T();
  } else if constexpr (kind == Kind::duration) {
    return T(sluice::decode<typename T::rep>(in));
  } else if constexpr (kind == Kind::time_point) {
    return T(sluice::decode<typename T::duration>(in));
  } else if constexpr (kind == Kind::pair || kind == Kind::tuple || kind == Kind::aggregate) {
    return decode_parts<T>(in, parts_t<T>());
  } else if constexpr (kind == Kind::optional) {
    if (decode_bool(in) == 0) return std::nullopt;
    return T(std::in_place, sluice::decode<std::remove_const_t<typename T::value_type>>(in));
  } else if constexpr (kind == Kind::variant) {
    return decode_alternative<T>(in, in.varint());
  } else if constexpr (kind == Kind::vector) {
    return decode_vector<T>(in);
  } else {
    return decode_array<T>(in);
  }
}

// --- schema ---

void append_number_schema(std::string& text, bool is_float, bool is_signed, std::size_t bytes);
void append_ratio_schema(std::string& text, std::intmax_t numerator, std::intmax_t denominator);
void append_size_schema(std::string& text, std::size_t size);

template <class T>
void append_schema(std::string& text);

template <class... Ts>
void append_schemas(std::string& text, Types<Ts...>) {
  [[maybe_unused]] bool first = true;
  ((first ? static_cast<void>(first = false) : text.push_back(','), append_schema<std::remove_const_t<Ts>>(text)), ...);
}

consteval const char* schema_name(Kind kind) {
  switch (kind) {
    case Kind::boolean: return "bool";
    case Kind::enumeration: return "enum<";
    case Kind::string:
    case Kind::view: return "text";
    case Kind::unit: return "unit";
    case Kind::duration: return "duration<";
    case Kind::time_point: return "time<";
    case Kind::pair: return "pair<";
    case Kind::tuple: return "tuple<";
    case Kind::optional: return "optional<";
    case Kind::variant: return "variant<";
    case Kind::vector: return "list<";
    case Kind::array:
    case Kind::c_array: return "array<";
    case Kind::aggregate: return "struct{";
    default: return "";
  }
}

template <class T>
void append_schema(std::string& text) {
  constexpr Kind kind = kind_v<T>;
  text += schema_name(kind);
  if constexpr (kind == Kind::custom) {
    if constexpr (requires { codec<T>::name; }) {
      text += codec<T>::name;
    } else {
      text += "custom";
    }
  } else if constexpr (std::is_same_v<T, char>) {
    text += "char";  // signed on some CPUs only
  } else if constexpr (kind == Kind::arithmetic) {
    append_number_schema(text, std::is_floating_point_v<T>, std::is_signed_v<T>, sizeof(T));
  } else if constexpr (kind == Kind::enumeration) {
    append_schema<std::underlying_type_t<T>>(text);
    text += '>';
  } else if constexpr (kind == Kind::duration) {
    append_schema<typename T::rep>(text);
    append_ratio_schema(text, T::period::num, T::period::den);
    text += '>';
  } else if constexpr (kind != Kind::boolean && kind != Kind::string && kind != Kind::view && kind != Kind::unit) {
    append_schemas(text, parts_t<T>());
    if constexpr (kind == Kind::array) append_size_schema(text, std::tuple_size_v<T>);
    if constexpr (kind == Kind::c_array) append_size_schema(text, std::extent_v<T>);
    text += kind == Kind::aggregate ? '}' : '>';
  }
}

}  // namespace detail

template <class T>
void encode(const T& value, Encoder& out) {
  detail::require_encodable<T>();
  if constexpr (Encodable<T>) detail::encode_value(value, out);
}

template <class T>
T decode(Decoder& in) {
  static_assert(!std::is_array_v<T>, "sluice: a C array cannot be returned; use std::array");
  detail::require_encodable<T>();
  if constexpr (Encodable<T>) {
    return detail::decode_value<T>(in);
  } else {
    __builtin_unreachable();  // refused by require_encodable
  }
}

template <class T>
void rest([[maybe_unused]] T& value, [[maybe_unused]] Arena& arena) {
  constexpr detail::Kind kind = detail::kind_v<T>;
  if constexpr (!has_views_v<T>) {
    return;
  } else if constexpr (kind == detail::Kind::custom) {
    codec<T>::rest(value, arena);
  } else if constexpr (kind == detail::Kind::view) {
    value = arena.copy(value);
  } else if constexpr (kind == detail::Kind::pair) {
    sluice::rest(value.first, arena);
    sluice::rest(value.second, arena);
  } else if constexpr (kind == detail::Kind::tuple) {
    std::apply([&](auto&... each) { (sluice::rest(each, arena), ...); }, value);
  } else if constexpr (kind == detail::Kind::optional) {
    if (value) sluice::rest(*value, arena);
  } else if constexpr (kind == detail::Kind::variant) {
    if (!value.valueless_by_exception()) std::visit([&](auto& held) { sluice::rest(held, arena); }, value);
  } else if constexpr (kind == detail::Kind::aggregate) {
    detail::for_each_field(value, [&](auto& field) { sluice::rest(field, arena); });
  } else {
    for (auto& each : value) sluice::rest(each, arena);
  }
}

/// The shape of T's bytes in words, such as "pair<text,i64>" or "struct{i32,f64}": kept with state on disk, to find out
/// whether a new program still reads it. A type with a codec of its own is its `name`, or "custom".
template <class T>
std::string schema_of() {
  std::string text;
  detail::append_schema<T>(text);
  return text;
}

/// A type without its type: what the engine, which is not a template, does with arrays of records.
struct TypeOps {
  std::size_t size;
  std::size_t align;
  bool has_views;
  bool trivially_copyable;
  bool trivially_destructible;
  void (*destroy)(void* records, std::size_t count);
  /// Into memory without objects; if a copy throws, it has none again.
  void (*copy)(const void* from, void* to, std::size_t count);
  void (*rest)(void* records, std::size_t count, Arena& arena);
  void (*encode)(const void* records, std::size_t count, Encoder& out);
  /// Into memory without objects; if the bytes are bad, it has none again. The caller has checked `count`.
  void (*decode)(Decoder& in, void* to, std::size_t count);
  std::string (*schema)();
};

namespace detail {

/// Destroys what was made when the making of an array throws.
template <class T>
struct PartOfArray {
  T* first;
  std::size_t made = 0;
  bool complete = false;

  ~PartOfArray() {
    if constexpr (!std::is_trivially_destructible_v<T>) {
      while (!complete && made != 0) first[--made].~T();
    }
  }
};

template <class T>
struct ArrayOps {
  static void destroy(void* records, std::size_t count) {
    if constexpr (!std::is_trivially_destructible_v<T>) {
      T* const first = static_cast<T*>(records);
      for (std::size_t i = 0; i < count; ++i) first[i].~T();
    }
  }

  static void copy(const void* from, void* to, std::size_t count) {
    if constexpr (std::is_trivially_copyable_v<T>) {
      if (count != 0) std::memcpy(to, from, count * sizeof(T));
    } else {
      PartOfArray<T> array{static_cast<T*>(to)};
      for (; array.made < count; ++array.made) {
        new (static_cast<void*>(array.first + array.made)) T(static_cast<const T*>(from)[array.made]);
      }
      array.complete = true;
    }
  }

  static void rest(void* records, std::size_t count, Arena& arena) {
    if constexpr (has_views_v<T>) {
      T* const first = static_cast<T*>(records);
      for (std::size_t i = 0; i < count; ++i) sluice::rest(first[i], arena);
    }
  }

  static void encode(const void* records, std::size_t count, Encoder& out) {
    if constexpr (is_plain_v<T>) {
      if (count != 0) out.bytes(records, count * sizeof(T));
    } else {
      const T* const first = static_cast<const T*>(records);
      for (std::size_t i = 0; i < count; ++i) sluice::encode(first[i], out);
    }
  }

  static void decode(Decoder& in, void* to, std::size_t count) {
    if constexpr (is_plain_v<T>) {
      if (count > in.remaining() / sizeof(T)) in.fail_truncated(count, sizeof(T));
      in.bytes(to, count * sizeof(T));
    } else {
      PartOfArray<T> array{static_cast<T*>(to)};
      for (; array.made < count; ++array.made) {
        new (static_cast<void*>(array.first + array.made)) T(sluice::decode<T>(in));
      }
      array.complete = true;
    }
  }
};

template <class T>
inline constexpr TypeOps type_ops_v{
    .size = sizeof(T),
    .align = alignof(T),
    .has_views = has_views_v<T>,
    .trivially_copyable = std::is_trivially_copyable_v<T>,
    .trivially_destructible = std::is_trivially_destructible_v<T>,
    .destroy = &ArrayOps<T>::destroy,
    .copy = &ArrayOps<T>::copy,
    .rest = &ArrayOps<T>::rest,
    .encode = &ArrayOps<T>::encode,
    .decode = &ArrayOps<T>::decode,
    .schema = &schema_of<T>,
};

}  // namespace detail

/// The operations of T. Always the same object for the same T.
template <class T>
const TypeOps& type_ops() {
  detail::require_encodable<T>();
  return detail::type_ops_v<T>;
}

}  // namespace sluice
