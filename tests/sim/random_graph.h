// Random operator graphs and what they should give.
//
// A graph is a list of operators over streams of (key, value) records; keys are numbers, or texts made of them. The
// engine's results (random_graph_engine.cc) are compared with a model that knows vectors and std::map only
// (random_graph.cc).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/runtime/random.h"

namespace sluice::testing {

class StreamTest;
struct StreamTestOptions;

using Number = std::int64_t;
using Numbers = std::pair<Number, Number>;
using Batches = std::vector<std::vector<Numbers>>;

inline constexpr Number keys = 64;
inline constexpr Number modulus = 1'000'003;
inline constexpr Number wrap(Number x, Number m = modulus) { return (x % m + m) % m; }

enum class Kind {
  input,
  map,
  filter,
  flat_map,
  map_values,
  reduce_by_key,
  combine_by_key,
  group_by_key,
  count_by_value,
  join,
  union_with,
  repartition,
  coalesce,
  cache,
  count,
  reduce,
  transform,
  window,
  reduce_window,
  reduce_window_inverse,
  reduce_by_window,
  state,
  state_idle,
  state_changes,
  to_text,
  to_number,
};
inline constexpr int kinds = static_cast<int>(Kind::to_number) + 1;

struct Operator {
  Kind kind = Kind::input;
  std::size_t a = 0;  // the streams it works on
  std::size_t b = 0;
  Number x = 0;  // parameters
  Number y = 0;
  /// Of its result.
  bool text = false;
  std::size_t slide = 1;   // in batches
  std::size_t length = 1;  // of a window, in batches
  bool output = false;
  double size = 0;  // records a batch, about
};

struct Graph {
  std::vector<Operator> operators;
};

Graph random_graph(Random& random);
/// One list of batches for each input of the graph.
std::vector<Batches> random_inputs(const Graph& graph, std::size_t batches, Random& random);
std::string to_string(const Graph& graph);

/// What each output has at each of its slide times, sorted.
std::vector<Batches> model(const Graph& graph, const std::vector<Batches>& inputs, std::size_t batches);
/// The same from the engine, in the engine's order. `flaky`: some tasks fail once. `beside` runs on a thread of its own
/// while the batches do.
std::vector<Batches> run_engine(const Graph& graph, const std::vector<Batches>& inputs, std::size_t batches,
                                const StreamTestOptions& options, bool flaky,
                                const std::function<void(StreamTest&)>& beside = nullptr);

// The functions of the operators.
inline Numbers map_record(Numbers r, Number x, Number y) {
  return {wrap(r.first * x + y, keys), wrap(r.second * (2 * x + 1) + y)};
}
inline bool keep_record(Numbers r, Number x, Number y) { return wrap(r.first + r.second, x + 2) != wrap(y, x + 2); }
inline std::vector<Numbers> expand(Numbers r, Number x) {
  std::vector<Numbers> all;
  for (Number i = 0; i < wrap(r.second + x, 3); ++i) all.emplace_back(wrap(r.first + i, keys), r.second + i);
  return all;
}
inline Number map_value(Number v, Number x) { return wrap(v * 3 + x); }
inline Number joined(Number v, Number w) { return wrap(v * 31 + w); }
inline Number hash_of_sorted(std::vector<Number> values) {
  std::sort(values.begin(), values.end());
  Number hash = 7;
  for (const Number v : values) hash = wrap(hash * 31 + v);
  return hash;
}
inline Number reduced_key(Number a, Number b) { return wrap(a + b, keys); }
inline Number counted_key(Numbers record) { return wrap(record.first * 31 + record.second, keys); }
template <class Values>
std::optional<Number> next_state(const Values& now, std::optional<Number> before, bool idle_keeps) {
  if (now.empty()) {
    if (idle_keeps) return before;
    if (*before % 4 == 3) return std::nullopt;
    return *before + 1;
  }
  Number sum = before.value_or(0);
  for (const Number v : now) sum += v;
  if (sum % 5 == 0) return std::nullopt;
  return wrap(sum);
}

}  // namespace sluice::testing
