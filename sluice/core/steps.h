// Steps: what a narrow operator does to one record.
//
// A step is called as `step(record, emit)` and calls `emit` for each record that comes out. Steps chain with `|`, and
// a chain is a step: the compiler sees all of it as one loop, without a buffer between the parts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "sluice/core/closure.h"
#include "sluice/core/key.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace sluice {

namespace detail {

template <class F, class T>
using Returned = std::decay_t<std::invoke_result_t<const F&, const T&>>;

/// What a flat_map function gives for a T: the element of the range it returns, or its `emits`.
template <class F>
concept EmitsDeclared = requires { typename F::emits; };
template <class F, class T>
struct FlatMapped {
  using type = std::decay_t<decltype(*std::begin(std::declval<std::invoke_result_t<const F&, const T&>&>()))>;
};
template <EmitsDeclared F, class T>
struct FlatMapped<F, T> {
  using type = typename F::emits;
};

template <class F>
struct MapStep {
  F f;
  auto functions() const { return std::tuple(&f); }
  template <class T>
  using Out = Returned<F, T>;
  template <class T, class Emit>
  void operator()(const T& record, const Emit& emit) const {
    emit(f(record));
  }
};

template <class F>
struct FilterStep {
  F f;
  auto functions() const { return std::tuple(&f); }
  template <class T>
  using Out = T;
  template <class T, class Emit>
  void operator()(const T& record, const Emit& emit) const {
    if (f(record)) emit(record);
  }
};

template <class F>
struct FlatMapStep {
  F f;
  auto functions() const { return std::tuple(&f); }
  template <class T>
  using Out = typename FlatMapped<F, T>::type;
  template <class T, class Emit>
  void operator()(const T& record, const Emit& emit) const {
    if constexpr (EmitsDeclared<F>) {
      f(record, emit);
    } else {
      for (auto&& made : f(record)) emit(std::forward<decltype(made)>(made));
    }
  }
};

template <class F>
struct MapValuesStep {
  F f;
  auto functions() const { return std::tuple(&f); }
  template <class T>
  using Out = std::pair<typename T::first_type, Returned<F, typename T::second_type>>;
  template <class T, class Emit>
  void operator()(const T& record, const Emit& emit) const {
    emit(record.first, f(record.second));
  }
};

template <class First, class Second>
struct ChainStep {
  First first;
  Second second;
  auto functions() const { return std::tuple(&first, &second); }
  template <class T>
  using Out = typename Second::template Out<typename First::template Out<T>>;
  template <class T, class Emit>
  void operator()(const T& record, const Emit& emit) const {
    first(record, [&](auto&&... parts) {
      if constexpr (sizeof...(parts) == 1) {
        second((parts, ...), emit);
      } else {
        second(typename First::template Out<T>(std::forward<decltype(parts)>(parts)...), emit);
      }
    });
  }
};

template <class S>
struct is_step : std::false_type {};
template <class F>
struct is_step<MapStep<F>> : std::true_type {};
template <class F>
struct is_step<FilterStep<F>> : std::true_type {};
template <class F>
struct is_step<FlatMapStep<F>> : std::true_type {};
template <class F>
struct is_step<MapValuesStep<F>> : std::true_type {};
template <class A, class B>
struct is_step<ChainStep<A, B>> : std::true_type {};

template <class A, class B>
  requires is_step<A>::value && is_step<B>::value
ChainStep<A, B> operator|(A a, B b) {
  return {std::move(a), std::move(b)};
}

}  // namespace detail

/// Steps for `apply`: `lines.apply(sluice::filter(is_error) | sluice::map(parse))` runs both in one loop, without the
/// buffer that lies between two operators. Worth it for steps that cost a few nanoseconds.
template <class F>
detail::MapStep<F> map(F f) {
  return {std::move(f)};
}
/// See `map`.
template <class F>
detail::FilterStep<F> filter(F f) {
  return {std::move(f)};
}
/// See `map`.
template <class F>
detail::FlatMapStep<F> flat_map(F f) {
  return {std::move(f)};
}

/// See `split`.
struct Split {
  using emits = std::string_view;
  char separator;

  template <class Emit>
  void operator()(std::string_view text, const Emit& emit) const {
    const char* p = text.data();
    const char* const end = p + text.size();
    const char* piece = p;
#if defined(__SSE2__)
    const __m128i wanted = _mm_set1_epi8(separator);
    for (; p + 16 <= end; p += 16) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
      auto found = static_cast<unsigned>(_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, wanted)));
      for (; found != 0; found &= found - 1) {
        const char* at = p + __builtin_ctz(found);
        if (at != piece) emit(piece, static_cast<std::size_t>(at - piece));
        piece = at + 1;
      }
    }
#endif
    for (; p < end; ++p) {
      if (*p != separator) continue;
      if (p != piece) emit(piece, static_cast<std::size_t>(p - piece));
      piece = p + 1;
    }
    if (piece != end) emit(piece, static_cast<std::size_t>(end - piece));
  }
};

/// For flat_map: the pieces of a text between separators, as views into it; empty pieces are left out.
inline Split split(char separator) { return {separator}; }

}  // namespace sluice
