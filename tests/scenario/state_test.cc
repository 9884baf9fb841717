// Rows ST: state by key.
#include <map>
#include <optional>
#include <span>

#include "tests/scenario/matrix.h"

namespace sluice::testing {
namespace {

std::optional<int> total(std::span<const int> now, std::optional<int> before) {
  int sum = before.value_or(0);
  for (const int x : now) sum += x;
  return sum;
}

TEST(St, ST_01_the_function_is_called_for_every_known_key_in_every_batch) {
  everywhere_in_one_life([](StreamTest& t) {
    const Accumulator calls = t.context().accumulator();
    auto in = t.stream<Pair>({{{1, 10}, {2, 1}}, {}, {{1, 5}, {3, 7}, {1, 1}}});
    auto state = in.update_state_by_key([calls](std::span<const int> now, std::optional<int> before) {
      calls.add(1);
      return std::optional(before.value_or(0) * 2 + static_cast<int>(now.size()));
    });
    auto all = t.output(state);
    auto changes = t.output(state.changes());
    t.run(3);
    EXPECT_EQ(sorted_values(all.batches()), (Pairs{{{1, 1}, {2, 1}}, {{1, 2}, {2, 2}}, {{1, 6}, {2, 4}, {3, 1}}}));
    EXPECT_EQ(sorted_values(changes.batches()), sorted_values(all.batches()));
    EXPECT_EQ(t.context().value_of(calls), 2 + 2 + 3);
  });
}

TEST(St, ST_01_values_come_in_a_fixed_order) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<Pair>({{{1, 1}, {1, 2}, {2, 9}, {1, 3}, {1, 4}}, {{1, 5}}});
    auto digits = in.update_state_by_key([](std::span<const int> now, std::optional<std::int64_t> before) {
      std::int64_t number = before.value_or(0);
      for (const int x : now) number = number * 10 + x;
      return std::optional(number);
    });
    auto out = t.run(digits, 2);
    EXPECT_EQ(sorted(out[1].records), (std::vector<std::pair<int, std::int64_t>>{{1, 12345}, {2, 9}}));
  });
}

TEST(St, ST_02_nothing_drops_the_key_and_it_comes_back_without_state) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<Pair>({{{1, 1}, {2, 1}, {3, 1}, {4, 1}}, {{1, -1}, {4, -1}, {2, 5}}, {{1, 7}}, {}});
    auto state = in.update_state_by_key([](std::span<const int> now, std::optional<int> before) {
      for (const int x : now) {
        if (x < 0) return std::optional<int>();
      }
      return total(now, before);
    });
    auto out = t.output(state);
    auto changes = t.output(state.changes());
    t.run(4);
    const Pairs expected{
        {{1, 1}, {2, 1}, {3, 1}, {4, 1}}, {{2, 6}, {3, 1}}, {{1, 7}, {2, 6}, {3, 1}}, {{1, 7}, {2, 6}, {3, 1}}};
    EXPECT_EQ(sorted_values(out.batches()), expected);
    EXPECT_EQ(sorted_values(changes.batches()), expected);
  });
}

TEST(St, ST_03_a_batch_without_records_calls_the_function_all_the_same) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<Pair>({{}, {{1, 1}}, {}, {}});
    auto ages = in.update_state_by_key([](std::span<const int> now, std::optional<int> before) {
      return std::optional(now.empty() ? before.value_or(0) + 1 : 0);
    });
    EXPECT_EQ(values(t.run(ages, 4)), (Pairs{{}, {{1, 0}}, {{1, 1}}, {{1, 2}}}));
  });
}

// Batches that drop, revive and add keys; used by several tests.
std::vector<std::vector<Pair>> busy_batches(int batches, int keys) {
  std::vector<std::vector<Pair>> all;
  unsigned x = 12345;
  for (int b = 0; b < batches; ++b) {
    std::vector<Pair>& batch = all.emplace_back();
    for (int i = 0; i < keys / 3; ++i) {
      x = x * 1664525 + 1013904223;
      batch.emplace_back(static_cast<int>(x >> 8) % keys, static_cast<int>(x >> 20) % 7 - 2);
    }
    if (b % 4 == 3) batch.clear();
  }
  return all;
}

// Sum; negative values drop the key.
std::optional<int> sum_or_drop(std::span<const int> now, std::optional<int> before) {
  if (now.empty()) return before;
  int sum = before.value_or(0);
  for (const int x : now) {
    if (x < 0) return std::nullopt;
    sum += x;
  }
  return sum;
}

TEST(St, IdleKeepsStateGivesWhatThePlainFormGives) {
  const auto batches = busy_batches(30, 100);
  std::map<int, int> model;
  std::vector<std::vector<Pair>> expected;
  std::vector<std::vector<Pair>> expected_changes;
  for (const auto& batch : batches) {
    std::map<int, std::vector<int>> now;
    for (const auto& [k, v] : batch) now[k].push_back(v);
    expected_changes.emplace_back();
    for (const auto& [k, v] : now) {
      const auto found = model.find(k);
      const auto result = sum_or_drop(v, found == model.end() ? std::nullopt : std::optional(found->second));
      if (result) {
        model[k] = *result;
        expected_changes.back().emplace_back(k, *result);
      } else {
        model.erase(k);
      }
    }
    expected.emplace_back(model.begin(), model.end());
  }
  everywhere([&](StreamTest& t) {
    auto in = t.stream<Pair>(batches);
    auto plain = t.output(in.update_state_by_key(sum_or_drop));
    auto state = in.update_state_by_key(sum_or_drop, {.idle_keeps_state = true});
    auto idle = t.output(state);
    auto changes = t.output(state.changes());
    t.run(batches.size());
    EXPECT_EQ(sorted_values(plain.batches()), expected);
    EXPECT_EQ(sorted_values(idle.batches()), expected);
    EXPECT_EQ(sorted_values(changes.batches()), expected_changes);
  });
}

TEST(St, StateIsKeptUpToDateWhenOnlyAnotherOutputAsks) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<Pair>({{{1, 1}}, {{1, 2}}, {{1, 4}}, {{1, 8}}});
    auto state = in.update_state_by_key(total);
    auto every_second = t.output(state.window({.length = 1s, .slide = 2s}));
    t.run(4);
    EXPECT_EQ(values(every_second.batches()), (Pairs{{{1, 3}}, {{1, 15}}}));
  });
}

TEST(St, AWindowOverAStateStreamHasTheStatesAsTheyWere) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<Pair>({{{1, 1}}, {{1, 2}, {2, 5}}, {}, {{1, 4}}});
    auto state = in.update_state_by_key(total);
    auto window = t.output(state.window({.length = 2s}));
    auto mapped = t.output(state.map_values([](int v) { return -v; }).window({.length = 2s}));
    auto changes = t.output(state.changes().window({.length = 3s}).count());
    t.run(4);
    const Pairs expected{
        {{1, 1}}, {{1, 1}, {1, 3}, {2, 5}}, {{1, 3}, {1, 3}, {2, 5}, {2, 5}}, {{1, 3}, {1, 7}, {2, 5}, {2, 5}}};
    EXPECT_EQ(sorted_values(window.batches()), expected);
    ASSERT_EQ(mapped.batches().size(), 4U);
    EXPECT_EQ(sorted(mapped.batches()[1].records), (std::vector<Pair>{{1, -3}, {1, -1}, {2, -5}}));
    EXPECT_EQ(changes.batches()[3].records[0], 6);
  });
}

TEST(St, AWindowOverAWindowWithAnInverse) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<Pair>({{{1, 1}}, {{1, 2}}, {{1, 4}}, {{1, 8}}});
    auto sums = in.reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = 2s});
    EXPECT_EQ(sorted_values(t.run(sums.window({.length = 2s}), 4)),
              (Pairs{{{1, 1}}, {{1, 1}, {1, 3}}, {{1, 3}, {1, 6}}, {{1, 6}, {1, 12}}}));
  });
}

TEST(St, StateOfTextKeysAndStructValues) {
  everywhere([](StreamTest& t) {
    using Seen = std::pair<std::string, int>;
    auto in = t.stream<std::pair<std::string_view, std::string_view>>(
        {{{"a key that is not inline", "x"}, {"k", "y"}}, {{"k", "a value that is not inline"}}});
    auto last = in.update_state_by_key([](std::span<const std::string_view> now, std::optional<Seen> before) {
      Seen seen = before.value_or(Seen());
      for (const std::string_view text : now) seen = {std::string(text), seen.second + 1};
      return std::optional(seen);
    });
    auto out = t.run(last, 2);
    EXPECT_EQ(sorted(out[1].records),
              (std::vector<std::pair<std::string_view, Seen>>{{"a key that is not inline", {"x", 1}},
                                                              {"k", {"a value that is not inline", 2}}}));
  });
}

TEST(St, TwoStatesAndAJoinOfThem) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<Pair>({{{1, 1}, {2, 2}}, {{1, 3}}});
    auto sums = in.update_state_by_key(total);
    auto counts = in.update_state_by_key([](std::span<const int> now, std::optional<int> before) {
      return std::optional(before.value_or(0) + static_cast<int>(now.size()));
    });
    auto out = t.run(sums.join(counts), 2);
    EXPECT_EQ(sorted(out[1].records), (std::vector<std::pair<int, Pair>>{{1, {4, 2}}, {2, {2, 1}}}));
  });
}

}  // namespace
}  // namespace sluice::testing
