// Closures: how the functions of a program travel to another process of the same binary.
//
// A shipped object is an immutable object behind an interface, made from parts. On the wire it is the address of the
// function that rebuilds it (as an offset into the image with that build id) and the bytes of its parts. Nothing is
// registered, no macro is needed, and a template instance ships like anything else. Closures live only in flight and
// are never written to disk, so they need no version beyond the build id. Who can send a task can run any code of the
// image: both ends are one domain of trust, and checksummed frames (cluster/channel.h) keep damaged messages out.
//
// User functions are parts wrapped in `Fn`. A function may capture plain bytes; values with a codec go through
// `with(values..., function)`; what cannot be copied is made where it is used: `per_process<T>(factory)`. Captures by
// reference are refused by the compiler, captured pointers when the operator is declared (SLU-110).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>

#include "sluice/core/codec.h"
#include "sluice/core/pipe.h"

namespace sluice {

/// A function together with values it needs that are not plain bytes; see `with`.
template <class F, class... Values>
struct With {
  std::tuple<Values...> values;
  F function;

  template <class... Args>
    requires std::is_invocable_v<const F&, const Values&..., Args...>
  decltype(auto) operator()(Args&&... args) const {
    return std::apply([&](const Values&... v) -> decltype(auto) { return function(v..., std::forward<Args>(args)...); },
                      values);
  }
};

namespace detail {
template <class Tuple, std::size_t... I>
auto make_with(Tuple&& all, std::index_sequence<I...>) {
  constexpr std::size_t last = sizeof...(I);
  using F = std::decay_t<std::tuple_element_t<last, std::remove_cvref_t<Tuple>>>;
  return With<F, std::decay_t<std::tuple_element_t<I, std::remove_cvref_t<Tuple>>>...>{
      {std::get<I>(std::forward<Tuple>(all))...}, std::get<last>(std::forward<Tuple>(all))};
}
}  // namespace detail

/// Passes `values` to a function that runs in tasks: `with(std::string("GET"), [](const std::string& verb,
/// std::string_view line) { return line.starts_with(verb); })`. The values come first in the call; each needs a codec
/// and is copied to every process that runs the function, once per stage.
template <class... Args>
  requires(sizeof...(Args) >= 2)
auto with(Args&&... values_then_function) {
  static_assert(!(has_views_v<std::decay_t<Args>> || ...),
                "sluice: with(...) keeps its values for as long as the operator lives; pass a std::string, not a "
                "std::string_view.");
  return detail::make_with(std::forward_as_tuple(std::forward<Args>(values_then_function)...),
                           std::make_index_sequence<sizeof...(Args) - 1>{});
}

namespace detail {

/// Address of a function or constant of the program as it travels: the build id of its image, mixed with what lies
/// there, and the offset in it. So an address can only be read as what it was written as.
void encode_address(const std::type_info& what, const void* address, Encoder& out);
/// Errors: SLU-304 when no image of that build is loaded or something else was written, SLU-301 when the offset is
/// outside the image.
const void* decode_address(const std::type_info& what, Decoder& in);
/// SLU-110 when an aligned word of the captures points into this process.
void check_captures(const void* bytes, std::size_t size, const OperatorInfo& info);

template <class F>
struct is_with : std::false_type {};
template <class F, class... V>
struct is_with<With<F, V...>> : std::true_type {};

/// Objects made of functions (steps.h): they travel part by part. `functions()` gives pointers to the parts (see
/// Fn::clear_padding for why no references), the type is an aggregate of them.
template <class F>
concept ComposedFunction = requires(const F& f) { f.functions(); };

template <class F>
inline constexpr bool is_function_pointer_v = std::is_pointer_v<F> && std::is_function_v<std::remove_pointer_t<F>>;

/// Can be copied as bytes. Not `is_trivially_copyable`: g++ 12 denies that of every lambda with captures once a program
/// has asked whether the lambda is assignable, as std::tuple does.
template <class F>
inline constexpr bool is_plain_function_v =
    std::is_trivially_copy_constructible_v<F> && std::is_trivially_destructible_v<F>;

template <class F>
constexpr void check_function_type() {
  if constexpr (is_with<F>::value) {
    // Its parts are checked on their own.
  } else if constexpr (!is_function_pointer_v<F>) {
    static_assert(is_plain_function_v<F>,
                  "sluice: this function runs in tasks, perhaps in another process, and captures something that is not "
                  "plain bytes (a string, a vector, ...). Pass such values with sluice::with(values..., function), or "
                  "make the object where it is used with sluice::per_process<T>(factory).");
    static_assert(!is_plain_function_v<F> || std::is_standard_layout_v<F>,
                  "sluice: this function runs in tasks, perhaps in another process, and captures by reference. Capture "
                  "by value ([=] or [name]), or pass values with sluice::with(values..., function).");
  }
}

/// A user function as a part of a shipped object.
template <class F>
struct Fn {
  F f;

  /// So that nobody asks whether F is assignable; see clear_padding.
  Fn& operator=(const Fn&) = delete;

  void check(const OperatorInfo& info) const {
    if constexpr (ComposedFunction<F>) {
      std::apply([&]<class... Parts>(const Parts*... part) { (Fn<Parts>{*part}.check(info), ...); }, f.functions());
    } else {
      check_function(info);
    }
  }
  void encode_to(Encoder& out) const {
    if constexpr (ComposedFunction<F>) {
      std::apply([&]<class... Parts>(const Parts*... part) { (Fn<Parts>{*part}.encode_to(out), ...); }, f.functions());
    } else {
      encode_function(out);
    }
  }
  static Fn decode_from(Decoder& in) {
    if constexpr (ComposedFunction<F>) {
      return decode_parts(in, static_cast<decltype(std::declval<const F&>().functions())*>(nullptr));
    } else {
      return decode_function(in);
    }
  }

 private:
  template <class... Parts>
  static Fn decode_parts(Decoder& in, std::tuple<const Parts*...>*) {
    return {F{Fn<Parts>::decode_from(in).f...}};  // braces: in order
  }
  void check_function(const OperatorInfo& info) const {
    check_function_type<F>();
    if constexpr (is_with<F>::value) {
      Fn<decltype(f.function)>{f.function}.check(info);
    } else if constexpr (!is_function_pointer_v<F> && !std::is_empty_v<F>) {
      const auto bytes = plain_bytes(f);
      check_captures(bytes.data(), sizeof(F), info);
    }
  }
  // What lies between the captures is left over from other uses of the memory: it may look like a pointer, and would
  // make the bytes of equal functions differ. By value: of a variable or parameter the compiler clears it whether or
  // not it takes the function for trivially copyable (see is_plain_function_v).
  static std::array<char, sizeof(F)> plain_bytes(F copy) {
#if __has_builtin(__builtin_clear_padding)
    __builtin_clear_padding(&copy);
#endif
    std::array<char, sizeof(F)> bytes;
    std::memcpy(bytes.data(), &copy, sizeof(F));
    return bytes;
  }
  void encode_function(Encoder& out) const {
    if constexpr (is_with<F>::value) {
      encode(f.values, out);
      Fn<decltype(f.function)>{f.function}.encode_to(out);
    } else if constexpr (is_function_pointer_v<F>) {
      encode_address(typeid(F), reinterpret_cast<const void*>(f), out);
    } else if constexpr (!std::is_empty_v<F>) {
      const auto bytes = plain_bytes(f);
      out.bytes(bytes.data(), sizeof(F));
    }
  }
  static Fn decode_function(Decoder& in) {
    if constexpr (is_with<F>::value) {
      auto values = decode<decltype(F::values)>(in);
      return {F{std::move(values), Fn<decltype(F::function)>::decode_from(in).f}};
    } else if constexpr (is_function_pointer_v<F>) {
      return {reinterpret_cast<F>(const_cast<void*>(decode_address(typeid(F), in)))};
    } else {
      // std::bit_cast asks for is_trivially_copyable; see is_plain_function_v.
      alignas(F) std::array<char, sizeof(F)> bytes{};
      if constexpr (!std::is_empty_v<F>) in.bytes(bytes.data(), sizeof(F));
      return {*std::launder(reinterpret_cast<const F*>(bytes.data()))};
    }
  }
};
template <class F>
Fn(F) -> Fn<F>;

template <class P>
struct is_fn : std::false_type {};
template <class F>
struct is_fn<Fn<F>> : std::true_type {};

template <class P>
void encode_part(const P& part, Encoder& out) {
  if constexpr (is_fn<P>::value) {
    part.encode_to(out);
  } else {
    encode(part, out);
  }
}

template <class P>
P decode_part(Decoder& in) {
  if constexpr (is_fn<P>::value) {
    return P::decode_from(in);
  } else {
    return decode<P>(in);
  }
}

/// An immutable object of interface `I` that can be sent to another process. Cheap to copy.
template <class I>
class Shipped {
 public:
  Shipped() = default;
  const I* operator->() const { return object_.get(); }
  const I& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }

  void encode_to(Encoder& out) const {
    encode_address(typeid(DecodeFunction), reinterpret_cast<const void*>(decode_), out);
    encode_(*this, out);
  }
  static Shipped decode_from(Decoder& in) {
    const void* const decode = decode_address(typeid(DecodeFunction), in);
    return reinterpret_cast<DecodeFunction>(const_cast<void*>(decode))(in);
  }

 private:
  using EncodeFunction = void (*)(const Shipped&, Encoder&);
  using DecodeFunction = Shipped (*)(Decoder&);

  template <class Interface, class Object, class... Parts>
  friend Shipped<Interface> ship(const OperatorInfo& info, Parts... parts);

  std::shared_ptr<const I> object_;
  std::shared_ptr<const void> parts_;
  EncodeFunction encode_ = nullptr;
  DecodeFunction decode_ = nullptr;
};

/// Makes an `Object` (constructed from `parts`) that can be shipped. Parts are `Fn`s and values with a codec.
template <class I, class Object, class... Parts>
Shipped<I> ship(const OperatorInfo& info, Parts... parts) {
  [[maybe_unused]] const auto check = [&info]<class P>(const P& part) {
    if constexpr (is_fn<P>::value) part.check(info);
  };
  (check(parts), ...);
  Shipped<I> shipped;
  shipped.object_ = std::make_shared<const Object>(parts...);
  shipped.parts_ = std::make_shared<const std::tuple<Parts...>>(std::move(parts)...);
  shipped.encode_ = [](const Shipped<I>& self, Encoder& out) {
    std::apply([&out](const Parts&... p) { (encode_part(p, out), ...); },
               *static_cast<const std::tuple<Parts...>*>(self.parts_.get()));
  };
  shipped.decode_ = [](Decoder& in) {
    // Braces order the evaluation: parts are decoded in the order they were encoded.
    std::tuple<Parts...> decoded{decode_part<Parts>(in)...};
    return std::apply([](Parts&... p) { return ship<I, Object, Parts...>(OperatorInfo{}, std::move(p)...); }, decoded);
  };
  return shipped;
}

}  // namespace detail

/// So that a shipped object can be a part of another.
template <class I>
struct codec<detail::Shipped<I>> {
  static void encode(const detail::Shipped<I>& shipped, Encoder& out) { shipped.encode_to(out); }
  static detail::Shipped<I> decode(Decoder& in) { return detail::Shipped<I>::decode_from(in); }
};

}  // namespace sluice
