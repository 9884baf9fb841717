// Folds: what actions and reductions make of a partition (see FoldKernel).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "sluice/core/kernels.h"

namespace sluice::detail {

/// A record kept beyond its chunk.
template <class T>
class Kept {
 public:
  void set(const T& record) {
    if constexpr (has_views_v<T>) {
      T copy = record;
      Arena fresh;
      rest(copy, fresh);
      value_ = std::move(copy);
      arena_ = std::move(fresh);
    } else {
      value_ = record;
    }
  }
  const std::optional<T>& value() const { return value_; }

 private:
  std::optional<T> value_;
  Arena arena_;
};

template <class T>
struct CountFold {
  std::int64_t count = 0;
  void add(const T*, std::size_t n) { count += static_cast<std::int64_t>(n); }
  template <class Emit>
  void end(const Emit& emit) {
    emit(count);
  }
};

/// Sum of the partition's partial results with a function; nothing for an empty partition.
template <class T, class F>
struct ReduceFold {
  explicit ReduceFold(Fn<F> function) : f(std::move(function)) {}
  Fn<F> f;
  Kept<T> sum;
  void add(const T* records, std::size_t n) {
    std::size_t i = 0;
    std::optional<T> local = sum.value();
    if (!local.has_value() && n > 0) local = records[i++];
    for (; i < n; ++i) local = f.f(*local, records[i]);
    if (local.has_value()) sum.set(*local);
  }
  template <class Emit>
  void end(const Emit& emit) {
    if (sum.value().has_value()) emit(*sum.value());
  }
};

template <class T>
struct TakeFold {
  explicit TakeFold(std::uint64_t most) : limit(most) {}
  std::uint64_t limit;
  Arena arena;
  std::vector<T> taken;
  void add(const T* records, std::size_t n) {
    for (std::size_t i = 0; i < n && taken.size() < limit; ++i) {
      taken.push_back(records[i]);
      if constexpr (has_views_v<T>) rest(taken.back(), arena);
    }
  }
  bool full() const { return taken.size() >= limit; }
  template <class Emit>
  void end(const Emit& emit) {
    for (const T& record : taken) emit(record);
  }
};

/// The `limit` first records by `before`, a strict order; equal ones in the order in which they came.
template <class T, class Before>
struct TopFold {
  TopFold(std::uint64_t most, Fn<Before> order) : limit(most), before(std::move(order)) {}
  struct Ranked {
    T record;
    std::uint64_t number;
  };
  std::uint64_t limit;
  Fn<Before> before;
  Arena arena;
  std::vector<Ranked> heap;  // the worst on top
  std::uint64_t seen = 0;
  std::size_t compact_at = 1 << 20;

  bool better(const Ranked& a, const Ranked& b) const {
    if (before.f(a.record, b.record)) return true;
    return !before.f(b.record, a.record) && a.number < b.number;
  }
  void add(const T* records, std::size_t n) {
    const auto order = [this](const Ranked& a, const Ranked& b) { return better(a, b); };
    for (std::size_t i = 0; i < n; ++i, ++seen) {
      if (limit == 0) continue;
      if (heap.size() == limit) {
        if (!before.f(records[i], heap.front().record)) continue;
        std::pop_heap(heap.begin(), heap.end(), order);
        heap.back() = {records[i], seen};
      } else {
        heap.push_back({records[i], seen});
      }
      if constexpr (has_views_v<T>) {
        rest(heap.back().record, arena);
        if (arena.bytes() > compact_at) compact();
      }
      std::push_heap(heap.begin(), heap.end(), order);
    }
  }
  // Text of records that were pushed out is given back now and then.
  void compact() {
    Arena fresh;
    for (Ranked& ranked : heap) rest(ranked.record, fresh);
    arena = std::move(fresh);
    compact_at = std::max<std::size_t>(1 << 20, 2 * arena.bytes());
  }
  template <class Emit>
  void end(const Emit& emit) {
    std::sort(heap.begin(), heap.end(), [this](const Ranked& a, const Ranked& b) { return better(a, b); });
    for (const Ranked& ranked : heap) emit(ranked.record);
  }
};

template <class T, class F>
struct ForeachFold {
  explicit ForeachFold(Fn<F> function) : f(std::move(function)) {}
  Fn<F> f;
  void add(const T* records, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) f.f(records[i]);
  }
  template <class Emit>
  void end(const Emit&) {}
};

}  // namespace sluice::detail
