// Values that an earlier version of a program has written, read as the types of today.
//
// What is kept with the bytes is `schema_of` the type then. If that is today's, values are decoded as always. Otherwise
// a plain struct may have got fields at its end: what was written as `struct{i64,text}` is read as
// `struct{i64,text,f64}` with the value that the declaration gives the new field. The same holds for structs inside
// structs, pairs, optionals and vectors. Anything else does not fit.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "sluice/core/codec.h"

namespace sluice::detail {

/// A schema as a tree: "pair<text,struct{i64}>" is "pair" with two parts.
struct SchemaTree {
  std::string name;
  std::vector<SchemaTree> parts;
};
bool operator==(const SchemaTree& a, const SchemaTree& b);
/// nullopt when `schema` is not one, or nested too deep.
std::optional<SchemaTree> parse_schema(std::string_view schema);

template <class T>
bool can_evolve(const SchemaTree& written, const SchemaTree& now);

template <class... Ts>
bool can_evolve_parts(const SchemaTree& written, const SchemaTree& now, Types<Ts...>) {
  std::size_t i = 0;
  const auto next = [&]<class T>() {
    const std::size_t part = i++;
    return part >= written.parts.size() || can_evolve<std::remove_const_t<T>>(written.parts[part], now.parts[part]);
  };
  return (next.template operator()<Ts>() && ...);
}

/// Whether what was written with one schema can be read as a T, whose schema today is the other.
template <class T>
bool can_evolve(const SchemaTree& written, const SchemaTree& now) {
  constexpr Kind kind = kind_v<T>;
  if (written == now) return true;
  if (written.name != now.name || written.parts.size() > now.parts.size()) return false;
  if constexpr (kind == Kind::aggregate && std::is_default_constructible_v<T>) {
    return can_evolve_parts(written, now, parts_t<T>());
  } else if constexpr (kind == Kind::pair || kind == Kind::optional || kind == Kind::vector) {
    return written.parts.size() == now.parts.size() && can_evolve_parts(written, now, parts_t<T>());
  } else {
    return false;
  }
}

template <class T>
T decode_evolved(const SchemaTree& written, const SchemaTree& now, Decoder& in) {
  constexpr Kind kind = kind_v<T>;
  if (written == now) {
    if constexpr (!std::is_array_v<T>) return decode<T>(in);
  }
  if constexpr (kind == Kind::aggregate && std::is_default_constructible_v<T>) {
    T value{};
    std::size_t i = 0;
    for_each_field(value, [&]<class Field>(Field& field) {
      const std::size_t part = i++;
      if (part >= written.parts.size()) return;
      if constexpr (std::is_array_v<Field>) {
        decode_over(in, field);
      } else {
        field = decode_evolved<Field>(written.parts[part], now.parts[part], in);
      }
    });
    return value;
  } else if constexpr (kind == Kind::pair) {
    auto first = decode_evolved<std::remove_const_t<typename T::first_type>>(written.parts[0], now.parts[0], in);
    return T(std::move(first), decode_evolved<typename T::second_type>(written.parts[1], now.parts[1], in));
  } else if constexpr (kind == Kind::optional) {
    if (decode_bool(in) == 0) return std::nullopt;
    return T(decode_evolved<typename T::value_type>(written.parts[0], now.parts[0], in));
  } else if constexpr (kind == Kind::vector && !std::is_same_v<T, std::vector<bool>>) {
    T values;
    for (std::size_t left = in.count(); left > 0; --left) {
      values.push_back(decode_evolved<typename T::value_type>(written.parts[0], now.parts[0], in));
    }
    return values;
  } else {
    in.fail_corrupt("a value does not fit its type");
  }
}

/// Reads values that were written with a schema.
template <class T>
class ValueReader {
 public:
  /// Errors: SLU-301 when a T cannot be read from it (see `fits`).
  explicit ValueReader(const std::string& written) {
    const std::string now = schema_of<T>();
    if (written == now) return;
    written_ = parse_schema(written);
    now_ = parse_schema(now);
    if (!fits(written)) Decoder({}).fail_corrupt("values of " + written + " cannot be read as " + now);
  }
  T operator()(Decoder& in) const { return written_ ? decode_evolved<T>(*written_, *now_, in) : decode<T>(in); }

  static bool fits(const std::string& written) {
    const auto before = parse_schema(written);
    const auto now = parse_schema(schema_of<T>());
    return before.has_value() && now.has_value() && can_evolve<T>(*before, *now);
  }

 private:
  std::optional<SchemaTree> written_;
  std::optional<SchemaTree> now_;
};

}  // namespace sluice::detail
