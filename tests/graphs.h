// Lineage graphs of numbers, for tests of the engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <numeric>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

#include "sluice/core/engine.h"
#include "sluice/core/folds.h"
#include "sluice/core/kernels.h"
#include "sluice/core/shuffles.h"
#include "sluice/core/sources.h"

namespace sluice::detail {

using Number = std::int64_t;
using Numbers = std::vector<Number>;
using Pair = std::pair<Number, Number>;
using EnginePtr = std::shared_ptr<Engine>;

inline OperatorInfoPtr named(const std::string& name) {
  return std::make_shared<const OperatorInfo>(OperatorInfo{name, std::source_location::current()});
}

/// 0, 1, 2, ... in equal partitions.
inline NodePtr numbers(Number count, std::size_t partitions, Number first = 0) {
  const auto info = named("numbers");
  std::vector<Shipped<Source>> sources;
  for (std::size_t p = 0; p < partitions; ++p) {
    const Number begin = count * static_cast<Number>(p) / static_cast<Number>(partitions);
    const Number end = count * static_cast<Number>(p + 1) / static_cast<Number>(partitions);
    Numbers values(static_cast<std::size_t>(end - begin));
    std::iota(values.begin(), values.end(), first + begin);
    sources.push_back(ship<Source, CollectionSource<Number>>(*info, std::move(values)));
  }
  return make_source(info, type_ops<Number>(), std::move(sources), partitions);
}

template <class U = Number, class F>
NodePtr mapped(const NodePtr& parent, F f, const std::string& name = "map") {
  const auto info = named(name);
  return make_narrow(info, type_ops<U>(), parent,
                     ship<Kernel, StepKernel<Number, U, MapStep<F>>>(*info, Fn<MapStep<F>>{{f}}));
}

/// Adds 1 to the accumulator for each record.
inline NodePtr counted(const NodePtr& parent, std::uint64_t accumulator) {
  return mapped(parent, [accumulator](Number n) {
    TaskContext::current()->add(accumulator, 1);
    return n;
  });
}

inline NodePtr moved(const EnginePtr& engine, const NodePtr& parent, std::size_t partitions) {
  const auto info = named("repartition");
  return make_shuffled(*engine, info, type_ops<Number>(), parent, ship<ShuffleKernel, MoveKernel<Number>>(*info),
                       partitions, false);
}

/// (n % 10, sum) of the numbers.
inline NodePtr summed(const EnginePtr& engine, const NodePtr& parent, std::size_t partitions) {
  using Combine = ReduceCombine<Number, std::plus<>>;
  const NodePtr pairs = mapped<Pair>(parent, [](Number n) { return Pair(n % 10, n); });
  const auto info = named("reduce_by_key");
  return make_shuffled(*engine, info, type_ops<Pair>(), pairs,
                       ship<ShuffleKernel, CombineKernel<Number, Number, Number, Combine>>(*info, Fn<Combine>{}),
                       partitions, true);
}

template <class T = Number>
std::vector<T> values_of(const RestedPtr& records) {
  class Collecting : public Pipe {
   public:
    void push(const void* chunk, std::size_t count) override {
      values.insert(values.end(), static_cast<const T*>(chunk), static_cast<const T*>(chunk) + count);
    }
    void finish() override {}
    std::vector<T> values;
  } pipe;
  records->push_all(pipe);
  return pipe.values;
}
template <class T = Number>
std::vector<std::vector<T>> partitions_of(const JobResult& result) {
  if (result.error != nullptr) std::rethrow_exception(result.error);
  std::vector<std::vector<T>> all;
  for (const RestedPtr& partition : result.partitions) all.push_back(values_of<T>(partition));
  return all;
}
template <class T = Number>
std::vector<T> values_of(const JobResult& result) {
  std::vector<T> all;
  for (const auto& partition : partitions_of<T>(result)) all.insert(all.end(), partition.begin(), partition.end());
  return all;
}
template <class T = Number>
std::vector<T> run(const EnginePtr& engine, const NodePtr& node) {
  return values_of<T>(engine->run({node})[0]);
}
inline Numbers iota(Number count, Number first = 0) {
  Numbers all(static_cast<std::size_t>(count));
  std::iota(all.begin(), all.end(), first);
  return all;
}

}  // namespace sluice::detail
