// What a type is made of: found by the compiler, for codec.h.
//
// Each record type has a kind (a number, a tuple, a plain struct ...) and parts (its fields, elements, alternatives).
// Whether it is plain, holds views, or cannot be encoded and why, follows from these. A new built-in type is a line in
// `built_in_v`, one in `parts`, and a branch in codec.h's encode, decode, rest and schema.
#pragma once

#include <array>
#include <boost/pfr/detail/core17_generated.hpp>
#include <boost/pfr/detail/fields_count.hpp>
#include <boost/pfr/detail/sequence_tuple.hpp>
#include <concepts>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace sluice {

class Arena;
class Decoder;
class Encoder;

/// The customization point: specialise it to encode a type of your own (see the head of this file). A specialisation
/// wins over what is built in.
template <class T>
struct codec;

namespace detail {

enum class Kind {
  unknown,
  custom,
  boolean,
  arithmetic,
  enumeration,
  string,
  view,
  unit,
  duration,
  time_point,
  pair,
  tuple,
  optional,
  variant,
  vector,
  array,
  c_array,
  aggregate,
  derived,
  pointer,
  reference,
  span,
};

/// Converts to a base class of T only: finds aggregates that have one.
template <class T>
struct BaseProbe {
  template <class U>
    requires(std::is_base_of_v<U, T> && !std::is_same_v<U, T>)
  operator U() const;
};
struct NothingProbe {};

template <class T>
consteval Kind classify() {
  // chrono is known by its members: <chrono> alone costs a quarter of a second to include.
  if constexpr (std::is_reference_v<T>) {
    return Kind::reference;
  } else if constexpr (requires { sizeof(codec<T>); }) {
    return Kind::custom;
  } else if constexpr (std::is_same_v<T, bool>) {
    return Kind::boolean;
  } else if constexpr (std::is_arithmetic_v<T>) {
    return Kind::arithmetic;
  } else if constexpr (std::is_enum_v<T>) {
    return Kind::enumeration;
  } else if constexpr (std::is_pointer_v<T> || std::is_member_pointer_v<T> || std::is_null_pointer_v<T>) {
    return Kind::pointer;
  } else if constexpr (std::is_array_v<T>) {
    return Kind::c_array;
  } else if constexpr (!std::is_class_v<T> || std::is_volatile_v<T>) {
    return Kind::unknown;
  } else if constexpr (requires(const T& t) {
                         typename T::clock;
                         typename T::duration;
                         t.time_since_epoch();
                       }) {
    return Kind::time_point;
  } else if constexpr (requires(const T& t) {
                         T::period::num;
                         typename T::rep;
                         t.count();
                       }) {
    return Kind::duration;
  } else if constexpr (!std::is_aggregate_v<T>) {
    return Kind::unknown;
  } else if constexpr (requires { T{BaseProbe<T>{}}; } && !requires { T{NothingProbe{}}; }) {
    return Kind::derived;
  } else {
    return Kind::aggregate;
  }
}

template <class T>
concept HasCustomCodec = requires { sizeof(codec<T>); };

template <class T>
inline constexpr Kind built_in_v = Kind::unknown;
template <>
inline constexpr Kind built_in_v<std::string_view> = Kind::view;
template <>
inline constexpr Kind built_in_v<std::monostate> = Kind::unit;
template <class A>
inline constexpr Kind built_in_v<std::basic_string<char, std::char_traits<char>, A>> = Kind::string;
template <class A, class B>
inline constexpr Kind built_in_v<std::pair<A, B>> = Kind::pair;
template <class... Ts>
inline constexpr Kind built_in_v<std::tuple<Ts...>> = Kind::tuple;
template <class T>
inline constexpr Kind built_in_v<std::optional<T>> = Kind::optional;
template <class... Ts>
inline constexpr Kind built_in_v<std::variant<Ts...>> = Kind::variant;
template <class T, class A>
inline constexpr Kind built_in_v<std::vector<T, A>> = Kind::vector;
template <class T, std::size_t n>
inline constexpr Kind built_in_v<std::array<T, n>> = Kind::array;
template <class T, std::size_t n>
inline constexpr Kind built_in_v<std::span<T, n>> = Kind::span;

template <class T>
consteval Kind kind() {
  if constexpr (built_in_v<T> != Kind::unknown && !HasCustomCodec<T>) {
    return built_in_v<T>;
  } else {
    return classify<T>();
  }
}
/// What T is to the codec; const does not matter.
template <class T>
inline constexpr Kind kind_v = kind<std::remove_const_t<T>>();

// --- the fields of a plain struct ---
//
// Boost.PFR gives references to them. How many there are we count here: PFR counts the elements of a C array as fields
// and then fails on what in `struct Tick { char symbol[8]; double price; }` is quite usual, g++ 12 crashes in its count
// when they are of a class type, and its search begins with hundreds of initialisers, which takes time to compile.

template <std::size_t>
using AnyField = boost::pfr::detail::ubiq_lref_constructor;

template <class T, std::size_t... at>
consteval bool takes(std::index_sequence<at...>) {
  return requires { T{AnyField<at>{at}...}; };
}
template <class T, std::size_t... at>
consteval bool takes_in_parentheses(std::index_sequence<at...>) {
  return requires { T(AnyField<at>{at}...); };
}
template <class T, std::size_t... before, std::size_t... after>
consteval bool takes_braces_between(std::index_sequence<before...>, std::index_sequence<after...>) {
  return requires { T{AnyField<before>{before}..., {}, AnyField<after>{after}...}; };
}

/// The fewest initialisers T can do with, from `at` on: some fields may have no default.
template <class T, std::size_t at = 0>
consteval std::size_t initialisers_min() {
  static_assert(at <= sizeof(T), "sluice: the fields of this struct cannot be found: specialise sluice::codec<T>");
  if constexpr (at == 0 ? std::is_default_constructible_v<T> : takes<T>(std::make_index_sequence<at>())) {
    return at;
  } else {
    return initialisers_min<T, at + 1>();
  }
}

/// The most it takes: `low` is taken, `high` is not, or not known if it is 0.
template <class T, std::size_t low, std::size_t high = 0, std::size_t step = 1>
consteval std::size_t initialisers_max() {
  constexpr std::size_t middle = high == 0 ? low + step : low + (high - low) / 2;
  if constexpr (middle == low) {
    return low;
  } else if constexpr (takes<T>(std::make_index_sequence<middle>())) {
    return initialisers_max<T, middle, high, 2 * step>();
  } else {
    return initialisers_max<T, low, middle>();
  }
}

/// How many of the `flat` initialisers belong to the field that takes the one at `at`: 1, or the elements of a C array.
template <class T, std::size_t flat, std::size_t at, std::size_t low = 1, std::size_t high = flat - at>
consteval std::size_t field_width() {
  // {} stands for the whole field, so with more initialisers after it than there are fields T cannot be made.
  if constexpr (low == high) {
    using Before = std::make_index_sequence<at>;
    return takes_braces_between<T>(Before(), std::make_index_sequence<flat - at - low>()) ? low : 1;
  } else {
    constexpr std::size_t middle = low + (high - low) / 2;
    constexpr bool enough =
        takes_braces_between<T>(std::make_index_sequence<at>(), std::make_index_sequence<flat - at - middle>());
    if constexpr (enough) {
      return field_width<T, flat, at, low, middle>();
    } else {
      return field_width<T, flat, at, middle + 1, high>();
    }
  }
}

template <class T, std::size_t flat, std::size_t at = 0>
consteval std::size_t count_fields_from() {
  if constexpr (at == flat) {
    return 0;
  } else if constexpr (takes_braces_between<T>(std::make_index_sequence<at>(),
                                               std::make_index_sequence<flat - at - 1>())) {
    return 1 + count_fields_from<T, flat, at + 1>();
  } else {
    return 1 + count_fields_from<T, flat, at + field_width<T, flat, at>()>();
  }
}

template <class T>
consteval std::size_t count_fields() {
  constexpr std::size_t flat = initialisers_max<T, initialisers_min<T>()>();
  // Initialisers in parentheses are never spread over an array: nothing to put right when they are all taken.
  if constexpr (flat <= 1 || takes_in_parentheses<T>(std::make_index_sequence<flat>())) {
    return flat;
  } else {
    return count_fields_from<T, flat>();
  }
}

/// References to the fields of a plain struct.
template <class T>
constexpr auto tie_fields(T& value) {
  return boost::pfr::detail::tie_as_tuple(value, boost::pfr::detail::size_t_<count_fields<std::remove_const_t<T>>()>());
}

// --- what a type is made of ---

template <class... Ts>
struct Types {};

template <class T>
struct parts {
  using type = Types<>;
};
template <class... Ts>
struct parts<boost::pfr::detail::sequence_tuple::tuple<Ts&...>> {
  using type = Types<Ts...>;
};
template <class A, class B>
struct parts<std::pair<A, B>> {
  using type = Types<A, B>;
};
template <class... Ts>
struct parts<std::tuple<Ts...>> {
  using type = Types<Ts...>;
};
template <class T>
struct parts<std::optional<T>> {
  using type = Types<T>;
};
template <class... Ts>
struct parts<std::variant<Ts...>> {
  using type = Types<Ts...>;
};
template <class T, class A>
struct parts<std::vector<T, A>> {
  using type = Types<T>;
};
template <class T, std::size_t n>
struct parts<std::array<T, n>> {
  using type = Types<T>;
};

template <class T>
consteval auto find_parts() {
  constexpr Kind kind = kind_v<T>;
  if constexpr (kind == Kind::aggregate) {
    return typename parts<decltype(tie_fields(std::declval<T&>()))>::type();
  } else if constexpr (kind == Kind::c_array) {
    return Types<std::remove_extent_t<T>>();
  } else if constexpr (kind == Kind::duration) {
    return Types<typename T::rep>();
  } else if constexpr (kind == Kind::time_point) {
    return Types<typename T::duration>();
  } else if constexpr (kind == Kind::custom) {
    return Types<>();
  } else {
    return typename parts<std::remove_const_t<T>>::type();
  }
}
/// What T holds directly: fields, elements, alternatives.
template <class T>
using parts_t = decltype(find_parts<T>());

// --- plain: bytes taken as they are ---

template <class T>
consteval bool is_plain();

template <class T, class... Ts>
consteval bool is_plain_struct(Types<Ts...>) {
  // Padding would carry whatever was in memory: the bytes of equal values would differ, and leak.
  if constexpr (sizeof...(Ts) > 0 && std::is_trivially_copyable_v<T> && (is_plain<Ts>() && ...)) {
    return (sizeof(Ts) + ...) == sizeof(T);
  } else {
    return false;
  }
}

template <class T>
consteval bool is_plain_array() {
  if constexpr (std::is_array_v<T>) {
    return std::extent_v<T> != 0 && is_plain<std::remove_extent_t<T>>();
  } else {
    return std::tuple_size_v<T> != 0 && is_plain<typename T::value_type>();
  }
}

template <class T>
consteval bool is_plain() {
  constexpr Kind kind = kind_v<T>;
  if constexpr (kind == Kind::arithmetic) {
    return !std::is_same_v<std::remove_const_t<T>, long double>;  // it has padding of its own
  } else if constexpr (kind == Kind::enumeration) {
    return !std::is_same_v<std::underlying_type_t<T>, bool>;
  } else if constexpr (kind == Kind::array || kind == Kind::c_array) {
    return is_plain_array<std::remove_const_t<T>>();
  } else if constexpr (kind == Kind::aggregate) {
    return is_plain_struct<T>(parts_t<T>());
  } else {
    return false;
  }
}

}  // namespace detail

/// True where the bytes of a T are taken as they are: arithmetic (but bool, which has invalid bytes) and enum types,
/// arrays of them, and plain structs of such fields without padding. Being trivially copyable is not enough: a
/// std::string_view is.
template <class T>
inline constexpr bool is_plain_v = detail::is_plain<T>();

namespace detail {

// --- views ---

template <class T>
consteval bool has_views();

template <class... Ts>
consteval bool any_has_views(Types<Ts...>) {
  return (has_views<Ts>() || ...);
}

template <class T>
consteval bool has_views() {
  constexpr Kind kind = kind_v<T>;
  if constexpr (kind == Kind::view) {
    return true;
  } else if constexpr (kind == Kind::custom) {
    return requires(T& value, Arena& arena) { codec<std::remove_const_t<T>>::rest(value, arena); };
  } else {
    return any_has_views(parts_t<T>());
  }
}

// --- what cannot be encoded ---

enum class Refusal { none, unknown, pointer, reference, span, derived, bad_codec, const_view, not_copyable };

template <class T>
consteval Refusal refusal();

template <class T, class... Ts>
consteval bool has_reference_field(Types<Ts...>) {
  // A reference field looks like its value to structured bindings. But it takes away standard layout, which all other
  // fields leave; if one of them does not, it takes away assignment.
  if constexpr (std::is_standard_layout_v<T>) {
    return false;
  } else if constexpr ((std::is_standard_layout_v<Ts> && ...)) {
    return true;
  } else {
    return (std::is_copy_assignable_v<Ts> && ...) && !std::is_copy_assignable_v<T>;
  }
}

template <class... Ts>
consteval Refusal first_refusal(Types<Ts...>) {
  Refusal first = Refusal::none;
  static_cast<void>(
      ((first = std::is_const_v<Ts> && has_views<Ts>() ? Refusal::const_view : refusal<Ts>(), first != Refusal::none) ||
       ...));
  return first;
}

template <class T>
consteval Refusal own_refusal() {
  switch (kind_v<T>) {
    case Kind::unknown: return Refusal::unknown;
    case Kind::derived: return Refusal::derived;
    case Kind::pointer: return Refusal::pointer;
    case Kind::reference: return Refusal::reference;
    case Kind::span: return Refusal::span;
    case Kind::custom:
      if constexpr (!requires(const T& value, Encoder& out, Decoder& in) {
                      codec<std::remove_const_t<T>>::encode(value, out);
                      { codec<std::remove_const_t<T>>::decode(in) } -> std::same_as<std::remove_const_t<T>>;
                    } && kind_v<T> == Kind::custom) {
        return Refusal::bad_codec;
      }
      break;
    case Kind::aggregate:
      if constexpr (kind_v<T> == Kind::aggregate) {
        if (has_reference_field<T>(parts_t<T>())) return Refusal::reference;
      }
      break;
    default: break;
  }
  return Refusal::none;
}

template <class T>
consteval Refusal refusal() {
  constexpr Refusal own = own_refusal<T>();
  if constexpr (own != Refusal::none) {
    return own;
  } else {
    constexpr Refusal inner = first_refusal(parts_t<T>());
    if constexpr (inner != Refusal::none) return inner;
    return std::is_copy_constructible_v<T> || std::is_array_v<T> ? Refusal::none : Refusal::not_copyable;
  }
}

template <class... Ts>
consteval void require_each_encodable(Types<Ts...>);

/// Fails to compile with a sentence, at the innermost type that is to blame.
template <class T>
consteval void require_encodable() {
  constexpr Refusal why = refusal<T>();
  if constexpr (why != Refusal::none) {
    constexpr Refusal own = own_refusal<T>();
    if constexpr (own == Refusal::none) require_each_encodable(parts_t<T>());
    static_assert(own != Refusal::pointer,
                  "sluice: this type cannot be encoded: it is or holds a pointer, which means nothing in another "
                  "process. Hold the value itself (std::string_view or std::string for text), or specialise "
                  "sluice::codec<T>");
    static_assert(own != Refusal::reference,
                  "sluice: this type cannot be encoded: it is or holds a reference, which means nothing in another "
                  "process. Hold the value itself, or specialise sluice::codec<T>");
    static_assert(own != Refusal::span,
                  "sluice: this type cannot be encoded: it is or holds a std::span, whose elements belong to someone "
                  "else. Hold a std::vector or std::array, or specialise sluice::codec<T>");
    static_assert(own != Refusal::derived,
                  "sluice: this type cannot be encoded: it is a struct with a base class, whose fields cannot be "
                  "found. Make the base a field, or specialise sluice::codec<T>");
    static_assert(own != Refusal::bad_codec,
                  "sluice: this type cannot be encoded: its sluice::codec<T> lacks `static void encode(const T&, "
                  "sluice::Encoder&)` or `static T decode(sluice::Decoder&)`");
    static_assert(own != Refusal::unknown,
                  "sluice: this type cannot be encoded: it is neither built in nor a plain struct (a struct without "
                  "constructors and private fields). Make it one, or specialise sluice::codec<T>");
    static_assert(why != Refusal::const_view || own == why,
                  "sluice: this type cannot be encoded: it holds a const field with a view in it, which could not be "
                  "moved to where its text is kept. Remove the const, or specialise sluice::codec<T>");
    static_assert(why != Refusal::not_copyable,
                  "sluice: this type cannot be encoded: it cannot be copied, and the engine copies records where they "
                  "come to rest. Give it a copy constructor, or hold the value in a type that has one");
  }
}

template <class... Ts>
consteval void require_each_encodable(Types<Ts...>) {
  (require_encodable<Ts>(), ...);
}

}  // namespace detail

/// True where a T holds a std::string_view somewhere, or has a codec with `rest`.
template <class T>
inline constexpr bool has_views_v = detail::has_views<T>();

/// What can be a record, a key or a state.
template <class T>
concept Encodable = detail::refusal<T>() == detail::Refusal::none;

}  // namespace sluice
