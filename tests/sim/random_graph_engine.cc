// Random graphs as programs of the engine. All streams are of two types, so that each operator is compiled twice.
#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "sluice/sluice.h"
#include "sluice/testkit/testing.h"
#include "tests/sim/random_graph.h"

namespace sluice::testing {
namespace {

// Some keys fit the 16 bytes of a key at rest, some do not.
const std::string& text_of(Number key) {
  static const std::vector<std::string>& texts = *[] {
    auto* all = new std::vector<std::string>;
    for (Number i = 0; i < keys; ++i) {
      const char* const prefix[] = {"k", "key number ", "a key that lies elsewhere "};
      all->push_back(prefix[i % 3] + std::to_string(i));
    }
    return all;
  }();
  return texts[static_cast<std::size_t>(key)];
}

template <class K>
struct Key {
  static K make(Number number) {
    if constexpr (std::is_same_v<K, Number>) {
      return number;
    } else {
      return text_of(number);
    }
  }
  static Number number(const K& key) {
    if constexpr (std::is_same_v<K, Number>) {
      return key;
    } else {
      Number value = 0;
      for (const char c : key) value = c >= '0' && c <= '9' ? value * 10 + (c - '0') : 0;
      return value;
    }
  }
};

template <class K>
using Pair = std::pair<K, Number>;

// A task runs fewer records than this between two failures, so that no task fails as often as it may.
constexpr std::uint64_t flaky_period = 4999;
std::atomic<bool> flaky_now{false};
std::atomic<std::uint64_t> flaky_calls{0};
void fail_sometimes() {
  if (flaky_now && flaky_calls.fetch_add(1) % flaky_period == flaky_period - 1) throw std::runtime_error("flaky");
}

template <class K>
auto state_function(bool idle_keeps) {
  return [idle_keeps](std::span<const Number> now, std::optional<Number> before) {
    fail_sometimes();
    return next_state(now, before, idle_keeps);
  };
}

Number plus(Number a, Number b) { return a + b; }
Number minus(Number a, Number b) {
  fail_sometimes();
  return a - b;
}

/// Operators of both types.
template <class K>
DStream<Pair<K>> declare(const Operator& op, const DStream<Pair<K>>& a, const DStream<Pair<K>>& b, Duration batch) {
  const WindowOptions window{.length = batch * op.length, .slide = batch * op.slide};
  const Number x = op.x;
  const Number y = op.y;
  const auto partitions = static_cast<std::size_t>(x % 4 + 1);
  switch (op.kind) {
    case Kind::filter:
      return a.filter([x, y](const Pair<K>& r) { return keep_record({Key<K>::number(r.first), r.second}, x, y); });
    case Kind::flat_map:
      return a.flat_map([x](const Pair<K>& r) {
        std::vector<Pair<K>> all;
        for (const auto& [k, v] : expand({Key<K>::number(r.first), r.second}, x)) all.emplace_back(Key<K>::make(k), v);
        return all;
      });
    case Kind::map_values:
      return a.map_values([x](Number v) {
        fail_sometimes();
        return map_value(v, x);
      });
    case Kind::reduce_by_key: return a.reduce_by_key(plus, partitions);
    case Kind::combine_by_key:
      return a.combine_by_key([](Number v) { return v + 7; }, [](Number c, Number v) { return c + v + 7; }, plus,
                              partitions);
    case Kind::group_by_key:
      return a.group_by_key(partitions).map_values([](const std::vector<Number>& all) { return hash_of_sorted(all); });
    case Kind::count_by_value:
      return a.count_by_value(partitions).map([](const std::pair<Pair<K>, Number>& r) {
        return Pair<K>(Key<K>::make(counted_key({Key<K>::number(r.first.first), r.first.second})), r.second);
      });
    case Kind::join:
      return a.join(b, partitions).map_values([](const Numbers& both) { return joined(both.first, both.second); });
    case Kind::union_with: return a.union_with(b);
    case Kind::repartition: return a.repartition(partitions);
    case Kind::coalesce: return a.coalesce(partitions);
    case Kind::cache: return a.map_values([](Number v) { return v; }).cache();
    case Kind::window: return a.window(window);
    case Kind::reduce_window: return a.reduce_by_key_and_window(plus, window);
    case Kind::reduce_window_inverse: return a.reduce_by_key_and_window(plus, minus, window);
    case Kind::state: return a.update_state_by_key(state_function<K>(false), {.partitions = partitions});
    case Kind::state_idle: return a.update_state_by_key(state_function<K>(true), {.idle_keeps_state = true});
    case Kind::state_changes:
      return a.update_state_by_key(state_function<K>(true), {.idle_keeps_state = true}).changes();
    default: throw std::logic_error("no operator of both types");
  }
}

/// Operators of numbers.
DStream<Numbers> declare_numbers(const Operator& op, const DStream<Numbers>& a, const DStream<Numbers>& b,
                                 Duration batch) {
  const Number x = op.x;
  const Number y = op.y;
  const auto reduce = [](const Numbers& p, const Numbers& q) {
    return Numbers(reduced_key(p.first, q.first), p.second + q.second);
  };
  switch (op.kind) {
    case Kind::map:
      return a.map([x, y](const Numbers& r) {
        fail_sometimes();
        return map_record(r, x, y);
      });
    case Kind::count: return a.count().map([](Number n) { return Numbers(0, n); });
    case Kind::reduce: return a.reduce(reduce);
    case Kind::reduce_by_window:
      return a.reduce_by_window(reduce, {.length = batch * op.length, .slide = batch * op.slide});
    case Kind::transform:
      return a.transform([](const Rdd<Numbers>& rdd) {
        const Number count = rdd.count();
        return rdd.map_values([count](Number v) { return wrap(v + count); });
      });
    default: return declare<Number>(op, a, b, batch);
  }
}

using Text = std::string_view;

/// Declares the graph; what each output has is read by the function returned for it.
class Program {
 public:
  Program(const Graph& graph, const std::vector<Batches>& inputs, StreamTest& t) : t_(t) {
    std::size_t next_input = 0;
    for (const Operator& op : graph.operators) {
      numbers_.emplace_back();
      texts_.emplace_back();
      if (op.kind == Kind::input) {
        add_input(op, inputs[next_input++]);
      } else {
        add(op);
      }
      if (op.output && op.text) observe<Text>(*texts_.back());
      if (op.output && !op.text) observe<Number>(*numbers_.back());
    }
  }
  std::vector<Batches> outputs() const {
    std::vector<Batches> all;
    for (const auto& read : outputs_) all.push_back(read());
    return all;
  }

 private:
  void add_input(const Operator& op, const Batches& batches) {
    if (!op.text) {
      numbers_.back() = t_.stream<Numbers>(batches);
      return;
    }
    std::vector<std::vector<Pair<Text>>> texts;
    for (const auto& batch : batches) {
      texts.emplace_back();
      for (const auto& [k, v] : batch) texts.back().emplace_back(text_of(k), v);
    }
    texts_.back() = t_.stream<Pair<Text>>(texts);
  }
  void add(const Operator& op) {
    const Duration batch = t_.streaming().batch_interval();
    if (op.kind == Kind::to_text) {
      texts_.back() = numbers_[op.a]->map([](const Numbers& r) { return Pair<Text>(text_of(r.first), r.second); });
    } else if (op.kind == Kind::to_number) {
      numbers_.back() =
          texts_[op.a]->map([](const Pair<Text>& r) { return Numbers(Key<Text>::number(r.first), r.second); });
    } else if (op.text) {
      texts_.back() = declare<Text>(op, *texts_[op.a], *texts_[op.b], batch);
    } else {
      numbers_.back() = declare_numbers(op, *numbers_[op.a], *numbers_[op.b], batch);
    }
  }
  template <class K>
  void observe(const DStream<Pair<K>>& stream) {
    outputs_.push_back([output = t_.output(stream)] {
      Batches batches;
      for (const Batch<Pair<K>>& batch : output.batches()) {
        batches.emplace_back();
        for (const auto& [k, v] : batch.records) batches.back().emplace_back(Key<K>::number(k), v);
      }
      return batches;
    });
  }

  StreamTest& t_;
  std::vector<std::optional<DStream<Numbers>>> numbers_;
  std::vector<std::optional<DStream<Pair<Text>>>> texts_;
  std::vector<std::function<Batches()>> outputs_;
};

}  // namespace

std::vector<Batches> run_engine(const Graph& graph, const std::vector<Batches>& inputs, std::size_t batches,
                                const StreamTestOptions& options, bool flaky,
                                const std::function<void(StreamTest&)>& beside) {
  flaky_now = flaky;
  StreamTest t(options);
  const Program program(graph, inputs, t);
  std::unique_ptr<Thread> thread;
  if (beside) thread = t.context().runtime().spawn("beside", [&] { beside(t); });
  struct Join {
    std::unique_ptr<Thread>& thread;
    ~Join() {
      if (thread != nullptr) thread->join();
    }
  } const join{thread};
  t.run(batches);
  return program.outputs();
}

}  // namespace sluice::testing
