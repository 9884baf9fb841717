#include "tests/sim/random_graph.h"

#include <map>

namespace sluice::testing {
namespace {

constexpr double size_max = 300;

// A stream with the type and slide of `like`; `like` itself when there is no other.
std::size_t partner(const Graph& graph, std::size_t like, Random& random) {
  std::vector<std::size_t> all;
  for (std::size_t i = 0; i < graph.operators.size(); ++i) {
    const Operator& op = graph.operators[i];
    if (op.text == graph.operators[like].text && op.slide == graph.operators[like].slide) all.push_back(i);
  }
  return all[random.below(all.size())];
}

bool fits(Kind kind, bool text) {
  switch (kind) {
    case Kind::input: return false;
    case Kind::to_number: return text;
    case Kind::to_text:
    case Kind::map:
    case Kind::count:
    case Kind::reduce:
    case Kind::reduce_by_window:
    case Kind::transform: return !text;
    default: return true;
  }
}

}  // namespace

Graph random_graph(Random& random) {
  Graph graph;
  auto& all = graph.operators;
  const std::size_t inputs = 2 + random.below(2);
  for (std::size_t i = 0; i < inputs; ++i) {
    Operator input;
    input.text = i == 1;
    input.size = 12;
    all.push_back(input);
  }
  const std::size_t count = inputs + 4 + random.below(8);
  while (all.size() < count) {
    Operator op;
    // Later streams more often, so that graphs become deep.
    op.a = std::max(random.below(all.size()), random.below(all.size()));
    const Operator& a = all[op.a];
    op.kind = static_cast<Kind>(random.below(kinds));
    if (!fits(op.kind, a.text)) continue;
    op.b = partner(graph, op.a, random);
    const Operator& b = all[op.b];
    op.x = static_cast<Number>(random.below(7));
    op.y = static_cast<Number>(random.below(7));
    op.text = a.text;
    op.slide = a.slide;
    op.size = a.size;
    switch (op.kind) {
      case Kind::to_text: op.text = true; break;
      case Kind::to_number: op.text = false; break;
      case Kind::join: op.size = a.size * b.size / 20; break;
      case Kind::union_with: op.size = a.size + b.size; break;
      case Kind::window:
      case Kind::reduce_window:
      case Kind::reduce_window_inverse:
      case Kind::reduce_by_window:
        op.length = a.slide * (1 + random.below(3));
        op.slide = a.slide * (1 + random.below(a.slide < 3 ? 3 : 1));
        op.size = op.kind == Kind::window ? a.size * 2 : a.size;
        break;
      case Kind::state:
      case Kind::state_idle: op.size = keys; break;
      default: break;
    }
    if (op.size > size_max) continue;
    all.push_back(op);
  }
  std::vector<bool> used(all.size());
  for (const Operator& op : all) {
    if (op.kind == Kind::input) continue;
    used[op.a] = true;
    if (op.kind == Kind::join || op.kind == Kind::union_with) used[op.b] = true;
  }
  for (std::size_t i = 0; i < all.size(); ++i) all[i].output = !used[i] || random.chance(0.3);
  return graph;
}

std::vector<Batches> random_inputs(const Graph& graph, std::size_t batches, Random& random) {
  std::vector<Batches> inputs;
  for (const Operator& op : graph.operators) {
    if (op.kind != Kind::input) continue;
    Batches& input = inputs.emplace_back(batches);
    const std::uint64_t distinct = 2 + random.below(keys - 2);
    for (auto& batch : input) {
      if (random.chance(0.25)) continue;
      for (std::uint64_t n = random.below(25); n > 0; --n) {
        batch.emplace_back(static_cast<Number>(random.below(distinct)), static_cast<Number>(random.below(100)));
      }
    }
  }
  return inputs;
}

std::string to_string(const Graph& graph) {
  static const char* const names[] = {"input",
                                      "map",
                                      "filter",
                                      "flat_map",
                                      "map_values",
                                      "reduce_by_key",
                                      "combine_by_key",
                                      "group_by_key",
                                      "count_by_value",
                                      "join",
                                      "union_with",
                                      "repartition",
                                      "coalesce",
                                      "cache",
                                      "count",
                                      "reduce",
                                      "transform",
                                      "window",
                                      "reduce_window",
                                      "reduce_window_inverse",
                                      "reduce_by_window",
                                      "state",
                                      "state_idle",
                                      "state_changes",
                                      "to_text",
                                      "to_number"};
  std::string text;
  for (std::size_t i = 0; i < graph.operators.size(); ++i) {
    const Operator& op = graph.operators[i];
    text += "  " + std::to_string(i) + " = " + names[static_cast<int>(op.kind)];
    if (op.kind != Kind::input) text += " of " + std::to_string(op.a);
    if (op.kind == Kind::join || op.kind == Kind::union_with) text += " and " + std::to_string(op.b);
    text += " (" + std::to_string(op.x) + ", " + std::to_string(op.y) + ") length " + std::to_string(op.length) +
            " slide " + std::to_string(op.slide) + (op.text ? " text" : "") + (op.output ? " output" : "") + "\n";
  }
  return text;
}

// ---- The model: one operator after the other, over all batches.

namespace {

using Groups = std::map<Number, std::vector<Number>>;

Groups group(const std::vector<Numbers>& records) {
  Groups groups;
  for (const auto& [k, v] : records) groups[k].push_back(v);
  return groups;
}

std::vector<Numbers> sums(const std::vector<Numbers>& records) {
  std::vector<Numbers> result;
  for (const auto& [k, values] : group(records)) {
    Number sum = 0;
    for (const Number v : values) sum += v;
    result.emplace_back(k, sum);
  }
  return result;
}

std::vector<Numbers> reduced(const std::vector<Numbers>& records) {
  if (records.empty()) return {};
  Numbers sum{0, 0};
  for (const auto& [k, v] : records) sum = {reduced_key(sum.first, k), sum.second + v};
  return {sum};
}

/// Operators that look at one batch alone.
std::vector<Numbers> of_batch(const Operator& op, const std::vector<Numbers>& a, const std::vector<Numbers>& b) {
  std::vector<Numbers> out;
  switch (op.kind) {
    case Kind::map:
      for (const Numbers& r : a) out.push_back(map_record(r, op.x, op.y));
      return out;
    case Kind::filter:
      for (const Numbers& r : a) {
        if (keep_record(r, op.x, op.y)) out.push_back(r);
      }
      return out;
    case Kind::flat_map:
      for (const Numbers& r : a) {
        for (const Numbers& made : expand(r, op.x)) out.push_back(made);
      }
      return out;
    case Kind::map_values:
      for (const auto& [k, v] : a) out.emplace_back(k, map_value(v, op.x));
      return out;
    case Kind::reduce_by_key: return sums(a);
    case Kind::combine_by_key:
      for (const auto& [k, values] : group(a)) {
        Number sum = static_cast<Number>(values.size()) * 7;
        for (const Number v : values) sum += v;
        out.emplace_back(k, sum);
      }
      return out;
    case Kind::group_by_key:
      for (const auto& [k, values] : group(a)) out.emplace_back(k, hash_of_sorted(values));
      return out;
    case Kind::count_by_value: {
      std::map<Numbers, Number> counts;
      for (const Numbers& r : a) ++counts[r];
      for (const auto& [r, count] : counts) out.emplace_back(counted_key(r), count);
      return out;
    }
    case Kind::join:
      for (const auto& [k, v] : a) {
        for (const auto& [l, w] : b) {
          if (k == l) out.emplace_back(k, joined(v, w));
        }
      }
      return out;
    case Kind::union_with:
      out = a;
      out.insert(out.end(), b.begin(), b.end());
      return out;
    case Kind::count: return {{0, static_cast<Number>(a.size())}};
    case Kind::reduce: return reduced(a);
    case Kind::transform:
      for (const auto& [k, v] : a) out.emplace_back(k, wrap(v + static_cast<Number>(a.size())));
      return out;
    default: return a;  // repartition, coalesce, cache, to_text, to_number
  }
}

std::vector<Numbers> of_window(const Operator& op, const std::vector<Numbers>& all) {
  if (op.kind == Kind::window) return all;
  return op.kind == Kind::reduce_by_window ? reduced(all) : sums(all);
}

std::vector<Numbers> step_state(const Operator& op, const std::vector<Numbers>& a, std::map<Number, Number>& state) {
  const bool idle_keeps = op.kind != Kind::state;
  Groups groups = group(a);
  std::vector<Numbers> changes;
  if (!idle_keeps) {
    for (const auto& [k, s] : state) groups[k];
  }
  for (const auto& [k, values] : groups) {
    const auto found = state.find(k);
    const auto result =
        next_state(values, found == state.end() ? std::optional<Number>() : std::optional(found->second), idle_keeps);
    if (result) {
      state[k] = *result;
      changes.emplace_back(k, *result);
    } else {
      state.erase(k);
    }
  }
  if (op.kind == Kind::state_changes) return changes;
  return {state.begin(), state.end()};
}

}  // namespace

std::vector<Batches> model(const Graph& graph, const std::vector<Batches>& inputs, std::size_t batches) {
  std::vector<Batches> streams;  // by batch number from 1
  std::size_t next_input = 0;
  for (const Operator& op : graph.operators) {
    Batches& stream = streams.emplace_back(batches + 1);
    std::map<Number, Number> state;
    for (std::size_t t = op.slide; t <= batches; t += op.slide) {
      switch (op.kind) {
        case Kind::input: stream[t] = inputs[next_input][t - 1]; break;
        case Kind::window:
        case Kind::reduce_window:
        case Kind::reduce_window_inverse:
        case Kind::reduce_by_window: {
          std::vector<Numbers> window;
          for (std::size_t u = t > op.length ? t - op.length + 1 : 1; u <= t; ++u) {
            window.insert(window.end(), streams[op.a][u].begin(), streams[op.a][u].end());
          }
          stream[t] = of_window(op, window);
          break;
        }
        case Kind::state:
        case Kind::state_idle:
        case Kind::state_changes: stream[t] = step_state(op, streams[op.a][t], state); break;
        default: stream[t] = of_batch(op, streams[op.a][t], streams[op.b][t]);
      }
    }
    if (op.kind == Kind::input) ++next_input;
  }
  std::vector<Batches> outputs;
  for (std::size_t i = 0; i < streams.size(); ++i) {
    const Operator& op = graph.operators[i];
    if (!op.output) continue;
    Batches& output = outputs.emplace_back();
    for (std::size_t t = op.slide; t <= batches; t += op.slide) {
      std::sort(streams[i][t].begin(), streams[i][t].end());
      output.push_back(streams[i][t]);
    }
  }
  return outputs;
}

}  // namespace sluice::testing
