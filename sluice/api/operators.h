// The operators that batches and streams share.
//
//     lines.filter([](std::string_view line) { return line.starts_with("GET"); })
//          .map([](std::string_view line) { return std::pair{path_of(line), 1L}; })
//          .reduce_by_key(std::plus{});
//
// Written once: on an Rdd an operator makes a node of the lineage graph, on a DStream it makes one for every batch.
// Meaning: Spark's operators of the same name (rows DS-01..DS-16, PD-01..PD-10 of the specification of DStreams).
//
// Functions that run in tasks take a record by value or const reference and must not keep views of it. They may capture
// plain bytes; see `with` and `per_process` for the rest. Order inside a partition is kept by all narrow operators.
// Threads: build graphs from one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "sluice/core/engine.h"
#include "sluice/core/folds.h"
#include "sluice/core/kernels.h"
#include "sluice/core/keyed.h"
#include "sluice/core/shuffles.h"
#include "sluice/core/steps.h"

namespace sluice {

/// An RDD's or stream's storage: where `cache`d partitions are kept.
enum class StorageLevel : int {
  /// In memory; partitions that do not fit the budget are computed again when they are needed.
  memory_only = 1,
  /// In memory; partitions that do not fit are written to disk and read back.
  memory_and_disk = 2,
  /// On disk at once; every use reads them back.
  disk_only = 3,
};

namespace detail {
using MakeNode = std::function<NodePtr(Engine&, const NodePtr&)>;
using MakeNode2 = std::function<NodePtr(Engine&, const NodePtr&, const NodePtr&)>;

/// What is common to `reduce`, `count` and the like: fold each partition, bring the partial results together in the
/// order of partitions, fold them.
template <class Partial, class FoldPartition, class FoldPartials, class... Parts, class T>
MakeNode fold_all(const std::shared_ptr<OperatorInfo>& info, const T*, const Parts&... parts) {
  auto first = ship<Kernel, FoldKernel<T, Partial, FoldPartition, Parts...>>(*info, parts...);
  auto gather = ship<ShuffleKernel, MoveKernel<Partial>>(*info);
  auto last = ship<Kernel, FoldKernel<Partial, Partial, FoldPartials, Parts...>>(*info, parts...);
  return [=](Engine& engine, const NodePtr& parent) {
    const TypeOps& type = type_ops<Partial>();
    NodePtr partials = make_narrow(info, type, parent, first);
    if (partials->partitions != 1) partials = make_shuffled(engine, info, type, partials, gather, 1, false);
    return make_narrow(info, type, partials, last);
  };
}

struct SumFold {
  std::int64_t sum = 0;
  void add(const std::int64_t* partials, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) sum += partials[i];
  }
  template <class Emit>
  void end(const Emit& emit) {
    emit(sum);
  }
};

template <class T>
MakeNode count_all(const std::shared_ptr<OperatorInfo>& info) {
  return fold_all<std::int64_t, CountFold<T>, SumFold>(info, static_cast<const T*>(nullptr));
}
template <class T, class F>
MakeNode reduce_all(const std::shared_ptr<OperatorInfo>& info, const F& f) {
  return fold_all<T, ReduceFold<T, F>, ReduceFold<T, F>, Fn<F>>(info, static_cast<const T*>(nullptr), Fn<F>{f});
}

/// `parent` as Keyed records in `partitions` partitions by key; without a shuffle when it lies so already.
template <class K, class V>
NodePtr by_key(Engine& engine, const OperatorInfoPtr& info, const NodePtr& parent, std::size_t partitions) {
  if (parent->by_key && parent->partitions == partitions) {
    return make_narrow(info, *parent->type, parent, ship<Kernel, KeyKernel<K, V>>(*info), true);
  }
  return make_shuffled(engine, info, *parent->type, parent, ship<ShuffleKernel, KeyedShuffle<K, V>>(*info), partitions,
                       true);
}

template <class F>
struct PartitionEmit {
  F f;
  auto functions() const { return std::tuple(&f); }
  template <class P, class Emit>
  void operator()(P& partition, const Emit& emit) const {
    for (auto&& made : f(partition)) emit(std::forward<decltype(made)>(made));
  }
};
template <class F>
struct PartitionForeach {
  F f;
  auto functions() const { return std::tuple(&f); }
  template <class P, class Emit>
  void operator()(P& partition, const Emit&) const {
    f(partition);
  }
};
struct GiveText {
  const std::string& operator()(const std::string& text) const { return text; }
};
/// f(partition, id), where id says what is written; see PartitionId.
template <class Id, class F>
struct IdentifiedPartition {
  With<GiveText, std::string> job;
  F f;
  auto functions() const { return std::tuple(&job, &f); }
  template <class P>
  void operator()(P& partition) const {
    f(partition, Id{job(), partition.batch_time(), partition.index(), partition.attempt()});
  }
};
}  // namespace detail

/// See the head of this file. `Self` is Rdd<T> or DStream<T>.
template <template <class> class Self, class T>
class Operators {
 public:
  /// f(record) for each record.
  template <class F>
    requires std::is_invocable_v<const F&, const T&>
  auto map(F f, Place where = std::source_location::current()) const {
    return step("map", detail::MapStep<F>{std::move(f)}, where);
  }

  /// The records for which f(record) is true.
  template <class F>
    requires std::is_invocable_r_v<bool, const F&, const T&>
  auto filter(F f, Place where = std::source_location::current()) const {
    return step("filter", detail::FilterStep<F>{std::move(f)}, where, true);
  }

  /// All elements of the ranges f(record). `f` may also be an emitter such as `split(' ')`: a type with `emits` that is
  /// called as f(record, emit). Views into the record may be emitted.
  template <class F>
  auto flat_map(F f, Place where = std::source_location::current()) const {
    return step("flat_map", detail::FlatMapStep<F>{std::move(f)}, where);
  }

  /// Several steps in one loop: `apply(sluice::filter(f) | sluice::map(g))`. See `sluice::map`.
  template <class Step>
    requires detail::is_step<Step>::value
  auto apply(Step steps, Place where = std::source_location::current()) const {
    return step("apply", std::move(steps), where);
  }

  /// f(partition) once for each partition, also for empty ones; gives all elements of the range it returns. The
  /// Partition<T>& is walked through once; see there for how long its records live.
  template <class F>
    requires std::is_invocable_v<const F&, Partition<T>&>
  auto map_partitions(F f, Place where = std::source_location::current()) const {
    using U = std::decay_t<decltype(*std::begin(std::declval<std::invoke_result_t<const F&, Partition<T>&>&>()))>;
    const auto info = self().info("map_partitions", where);
    auto kernel = detail::ship<detail::Kernel, detail::PartitionKernel<T, U, detail::PartitionEmit<F>>>(
        *info, detail::Fn{detail::PartitionEmit<F>{std::move(f)}});
    return narrow<U>(info, std::move(kernel), false);
  }

  /// (key, f(value)); keys and partitioning stay.
  template <class F>
    requires PairLike<T>
  auto map_values(F f, Place where = std::source_location::current()) const {
    return step("map_values", detail::MapValuesStep<F>{std::move(f)}, where, true);
  }

  /// One (key, sum) per key, sum = f(f(v1, v2), ...) over its values in a fixed order. `f` should be associative; it is
  /// applied before the shuffle too. `partitions`: 0 for the context's default.
  /// Cost: one hash look-up a record; memory for the distinct keys of a partition.
  template <class F>
    requires PairLike<T>
  Self<T> reduce_by_key(F f, std::size_t partitions = 0, Place where = std::source_location::current()) const {
    using V = typename T::second_type;
    return combine<V>("reduce_by_key", detail::ReduceCombine<V, F>{std::move(f)}, partitions, where);
  }

  /// General form of reduce_by_key: create(value) makes a combiner, merge_value(combiner, value) and
  /// merge(combiner, combiner) return the new one.
  template <class Create, class MergeValue, class Merge>
    requires PairLike<T>
  auto combine_by_key(Create create, MergeValue merge_value, Merge merge, std::size_t partitions = 0,
                      Place where = std::source_location::current()) const {
    using V = typename T::second_type;
    using C = std::decay_t<std::invoke_result_t<const Create&, const V&>>;
    return combine<C>("combine_by_key",
                      detail::GeneralCombine<V, C, Create, MergeValue, Merge>{std::move(create), std::move(merge_value),
                                                                              std::move(merge)},
                      partitions, where);
  }

  /// (key, all its values); duplicates are kept, values in a fixed order (PD-01). All values of a key must fit memory.
  auto group_by_key(std::size_t partitions = 0, Place where = std::source_location::current()) const
    requires PairLike<T>
  {
    using V = typename T::second_type;
    return combine<std::vector<V>>("group_by_key", detail::GroupCombine<V>{}, partitions, where);
  }

  /// (value, how often it occurs) for each distinct record.
  auto count_by_value(std::size_t partitions = 0, Place where = std::source_location::current()) const {
    const auto pairs =
        step("count_by_value", detail::MapStep{[](const T& record) { return std::pair<T, std::int64_t>(record, 1); }},
             where);
    return pairs.reduce_by_key([](std::int64_t a, std::int64_t b) { return a + b; }, partitions, where);
  }

  /// (key, (value here, value there)) for each pair of values with the same key (PD-10). Both sides are brought
  /// together by key, unless they lie together already; this side's records of a partition are kept in memory.
  template <class W, class P = T>
    requires PairLike<P>
  auto join(const Self<std::pair<typename P::first_type, W>>& other, std::size_t partitions = 0,
            Place where = std::source_location::current()) const {
    using K = typename P::first_type;
    using V = typename P::second_type;
    using Out = std::pair<K, std::pair<V, W>>;
    const auto info = self().info("join", where);
    const std::size_t parts = self().partitions_or_default(partitions);
    auto kernel = detail::ship<detail::ZipKernel, detail::JoinKernel<K, V, W>>(*info);
    return self().template derive2<Out>(
        info, other,
        [info, parts, kernel](detail::Engine& engine, const detail::NodePtr& left, const detail::NodePtr& right) {
          return detail::make_zip(
              info, type_ops<Out>(),
              {detail::by_key<K, V>(engine, info, left, parts), detail::by_key<K, W>(engine, info, right, parts)},
              kernel, true);
        });
  }

  /// The records of both, these first; partitions add up (DS-16).
  Self<T> union_with(const Self<T>& other, Place where = std::source_location::current()) const {
    const auto info = self().info("union", where);
    return self().template derive2<T>(
        info, other, [info](detail::Engine&, const detail::NodePtr& left, const detail::NodePtr& right) {
          return detail::make_union(info, {left, right}, detail::UnionBody::How::append);
        });
  }

  /// Exactly `partitions` partitions of about equal size, by a full shuffle (DS-07).
  Self<T> repartition(std::size_t partitions, Place where = std::source_location::current()) const {
    const auto info = self().info("repartition", where);
    auto kernel = detail::ship<detail::ShuffleKernel, detail::MoveKernel<T>>(*info);
    return self().template derive<T>(
        info, [info, kernel, partitions](detail::Engine& engine, const detail::NodePtr& parent) {
          return detail::make_shuffled(engine, info, type_ops<T>(), parent, kernel, partitions, false);
        });
  }

  /// At most `partitions` partitions: neighbours are put together, on one host without a shuffle.
  Self<T> coalesce(std::size_t partitions, Place where = std::source_location::current()) const {
    const auto info = self().info("coalesce", where);
    if (partitions == 0) {
      throw Error(Code::bad_argument, {.why = "0 partitions", .operation = info->name, .where = where});
    }
    return self().template derive<T>(info, [info, partitions](detail::Engine& engine, const detail::NodePtr& parent) {
      // On a cluster partitions lie apart, and so does the state that is updated with them: each has a task of its own.
      if (partitions < parent->partitions && engine.runner().has_state_elsewhere()) {
        const auto kernel =
            detail::ship<detail::ShuffleKernel, detail::MoveKernel<T>>(*info, std::uint64_t{parent->partitions});
        return detail::make_shuffled(engine, info, type_ops<T>(), parent, kernel, partitions, false);
      }
      return detail::make_union(info, {parent}, detail::UnionBody::How::coalesce, partitions);
    });
  }

 private:
  const Self<T>& self() const { return static_cast<const Self<T>&>(*this); }

  template <class Step>
  auto step(const char* name, Step step, Place where, bool keeps_partitioning = false) const {
    using U = typename Step::template Out<T>;
    const auto info = self().info(name, where);
    return narrow<U>(info, detail::ship<detail::Kernel, detail::StepKernel<T, U, Step>>(*info, detail::Fn<Step>{step}),
                     keeps_partitioning);
  }

  template <class U>
  Self<U> narrow(const std::shared_ptr<detail::OperatorInfo>& info, detail::Shipped<detail::Kernel> kernel,
                 bool keeps_partitioning) const {
    return self().template derive<U>(
        info, [info, kernel = std::move(kernel), keeps_partitioning](detail::Engine&, const detail::NodePtr& parent) {
          return detail::make_narrow(info, type_ops<U>(), parent, kernel, keeps_partitioning);
        });
  }

  template <class C, class Combine>
  auto combine(const char* name, Combine combine, std::size_t partitions, Place where) const {
    using K = typename T::first_type;
    using V = typename T::second_type;
    using Out = std::pair<K, C>;
    const auto info = self().info(name, where);
    const std::size_t parts = self().partitions_or_default(partitions);
    auto kernel = detail::ship<detail::ShuffleKernel, detail::CombineKernel<K, V, C, Combine>>(
        *info, detail::Fn<Combine>{std::move(combine)});
    return self().template derive<Out>(
        info, [info, parts, kernel](detail::Engine& engine, const detail::NodePtr& parent) {
          return detail::make_shuffled(engine, info, type_ops<Out>(), parent, kernel, parts, true);
        });
  }
};

}  // namespace sluice
