// Rows PD: operators on streams of pairs.
#include "tests/scenario/matrix.h"

namespace sluice::testing {
namespace {

using Text = std::string_view;
using TextPair = std::pair<Text, int>;
using TextPairs = std::vector<TextPair>;

TEST(Pd, PD_01_group_by_key_keeps_duplicates) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<Pair>({{{1, 5}, {2, 6}, {1, 5}, {1, 4}}, {}});
    auto out = t.run(in.group_by_key(), 2);
    using Group = std::pair<int, std::vector<int>>;
    EXPECT_EQ(sorted(out[0].records), (std::vector<Group>{{1, {5, 5, 4}}, {2, {6}}}));
    EXPECT_TRUE(out[1].records.empty());
  });
}

TEST(Pd, PD_01_groups_of_text_are_whole) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<std::pair<Text, Text>>(
        {{{"a key that is not inline", "a value that is not inline either"}, {"k", "v"}, {"k", "w"}}});
    auto out = t.run(in.group_by_key(), 1);
    using Group = std::pair<Text, std::vector<Text>>;
    EXPECT_EQ(
        sorted(out[0].records),
        (std::vector<Group>{{"a key that is not inline", {"a value that is not inline either"}}, {"k", {"v", "w"}}}));
  });
}

TEST(Pd, PD_02_reduce_by_key) {
  everywhere_in_one_life([](StreamTest& t) {
    auto in = t.stream<TextPair>({{{"a", 1}, {"b", 2}, {"a", 3}, {"", 4}}, {}, {{"b", 1}}});
    std::vector<std::size_t> partitions;
    auto sums = in.reduce_by_key(std::plus{}, 3);
    sums.foreach_rdd([&](const Rdd<TextPair>& rdd) { partitions.push_back(rdd.partitions()); });
    auto out = t.run(sums, 3);
    EXPECT_EQ(sorted(out[0].records), (TextPairs{{"", 4}, {"a", 4}, {"b", 2}}));
    EXPECT_TRUE(out[1].records.empty());
    EXPECT_EQ(sorted(out[2].records), (TextPairs{{"b", 1}}));
    EXPECT_EQ(partitions, (std::vector<std::size_t>{3, 3, 3}));
  });
}

TEST(Pd, PD_02_results_lie_in_the_same_order_whatever_the_number_of_threads) {
  std::vector<std::vector<Pair>> first;
  everywhere([&](StreamTest& t) {
    std::vector<std::vector<Pair>> batches(2);
    for (int i = 0; i < 500; ++i) batches[static_cast<std::size_t>(i % 2)].emplace_back(i * 7919 % 101, i);
    auto out = values(t.run(t.stream<Pair>(batches).reduce_by_key(std::plus{}, 5), 2));
    if (first.empty()) first = out;
    EXPECT_EQ(out, first);
  });
}

TEST(Pd, PD_03_combine_by_key) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<Pair>({{{1, 10}, {1, 20}, {2, 7}, {1, 30}}});
    using Mean = std::pair<int, int>;  // sum, count
    auto out = t.run(in.combine_by_key([](int v) { return Mean(v, 1); },
                                       [](Mean m, int v) { return Mean(m.first + v, m.second + 1); },
                                       [](Mean a, Mean b) { return Mean(a.first + b.first, a.second + b.second); }),
                     1);
    EXPECT_EQ(sorted(out[0].records), (std::vector<std::pair<int, Mean>>{{1, {60, 3}}, {2, {7, 1}}}));
  });
}

TEST(Pd, PD_04_map_values_keeps_keys_and_partitioning) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<Pair>({{{1, 10}, {2, 20}, {1, 1}}});
    auto sums = in.reduce_by_key(std::plus{}).map_values([](int v) { return v * 2; });
    std::uint64_t stages = 0;
    sums.foreach_rdd([&](const Rdd<Pair>& rdd) {
      const auto before = t.context().engine()->counters().stages;
      EXPECT_EQ(rdd.join(rdd).count(), 2);
      stages = t.context().engine()->counters().stages - before;
    });
    EXPECT_EQ(sorted_values(t.run(sums, 1)), (Pairs{{{1, 22}, {2, 40}}}));
    // The reduce's shuffle and the counts' one; the join needs none.
    EXPECT_LE(stages, 3U);
  });
}

TEST(Pd, PD_05_windows_of_groups) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<Pair>({{{1, 1}, {1, 2}}, {{1, 3}, {2, 9}}, {}});
    auto out = t.run(in.window({.length = 2s}).group_by_key(), 3);
    using Groups = std::vector<std::pair<int, std::vector<int>>>;
    EXPECT_EQ(sorted(out[0].records), (Groups{{1, {1, 2}}}));
    EXPECT_EQ(sorted(out[1].records), (Groups{{1, {1, 2, 3}}, {2, {9}}}));
    EXPECT_EQ(sorted(out[2].records), (Groups{{1, {3}}, {2, {9}}}));
  });
}

TEST(Pd, PD_06_keys_leave_a_window_with_their_data) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<TextPair>({{{"a", 1}}, {{"a", 2}, {"b", 5}}, {}, {}, {{"a", 7}}});
    auto out = t.run(in.reduce_by_key_and_window(std::plus{}, {.length = 2s}), 5);
    EXPECT_EQ(sorted_values(out),
              (std::vector<TextPairs>{{{"a", 1}}, {{"a", 3}, {"b", 5}}, {{"a", 2}, {"b", 5}}, {}, {{"a", 7}}}));
  });
}

TEST(Pd, PD_07_a_window_with_an_inverse_equals_the_one_without) {
  everywhere([](StreamTest& t) {
    std::vector<TextPairs> batches;
    const Text words[] = {"a", "b", "a much longer word", "d"};
    for (int i = 0; i < 12; ++i) {
      TextPairs batch;
      for (int j = 0; j < i % 5; ++j) batch.emplace_back(words[(i + j * j) % 4], i * 10 + j);
      batches.push_back(batch);
    }
    auto in = t.stream<TextPair>(batches);
    std::vector<std::pair<Output<TextPair>, Output<TextPair>>> both;
    for (const WindowOptions& window : {WindowOptions{.length = 3s}, WindowOptions{.length = 4s, .slide = 2s},
                                        WindowOptions{.length = 2s, .slide = 2s}, WindowOptions{.length = 1s}}) {
      both.emplace_back(t.output(in.reduce_by_key_and_window(std::plus{}, window)),
                        t.output(in.reduce_by_key_and_window(std::plus{}, std::minus{}, window)));
    }
    t.run(15);
    for (const auto& [plain, inverse] : both)
      EXPECT_EQ(sorted_values(plain.batches()), sorted_values(inverse.batches()));
  });
}

TEST(Pd, PD_07_the_inverse_is_called_with_the_windows_value_and_the_leaving_one) {
  everywhere([](StreamTest& t) {
    // Subtraction told from its operands: 2 * window - leaving is wrong in any other order.
    auto in = t.stream<Pair>({{{1, 10}}, {{1, 3}}, {{1, 5}}});
    auto out =
        t.run(in.reduce_by_key_and_window([](int a, int b) { return a + b; },
                                          [](int window, int leaving) { return window - leaving; }, {.length = 2s}),
              4);
    EXPECT_EQ(values(out), (Pairs{{{1, 10}}, {{1, 13}}, {{1, 8}}, {{1, 5}}}));
  });
}

TEST(Pd, PD_08_a_key_is_dropped_when_no_record_is_left_and_kept_when_its_sum_is_zero) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<Pair>({{{1, 5}, {2, 3}}, {{1, -5}}, {{3, 1}}, {}});
    // The sum of key 1 is 0 in the second window, with records; with an inverse that is off by one, its value when all
    // records have left would not be 0.
    auto out =
        t.run(in.reduce_by_key_and_window(std::plus{}, [](int a, int b) { return a - b + 100; }, {.length = 2s}), 4);
    EXPECT_EQ(sorted_values(out), (Pairs{{{1, 5}, {2, 3}}, {{1, 0}, {2, 3}}, {{1, 95}, {3, 1}}, {{3, 1}}}));
  });
}

TEST(Pd, PD_09_a_slide_longer_than_the_window_gives_the_sums_inside_the_window) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<Pair>({{{1, 1}}, {{1, 2}}, {{1, 4}}, {{2, 8}}, {{1, 16}}, {{1, 32}}});
    const WindowOptions window{.length = 1s, .slide = 3s};
    auto plain = t.output(in.reduce_by_key_and_window(std::plus{}, window));
    auto inverse = t.output(in.reduce_by_key_and_window(std::plus{}, std::minus{}, window));
    auto two = t.output(in.reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = 2s, .slide = 3s}));
    t.run(6);
    EXPECT_EQ(values(plain.batches()), (Pairs{{{1, 4}}, {{1, 32}}}));
    EXPECT_EQ(values(inverse.batches()), (Pairs{{{1, 4}}, {{1, 32}}}));
    EXPECT_EQ(values(two.batches()), (Pairs{{{1, 6}}, {{1, 48}}}));
  });
}

TEST(Pd, PD_10_join_multiplies_duplicates) {
  everywhere([](StreamTest& t) {
    auto left = t.stream<std::pair<Text, int>>({{{"a", 1}, {"a", 2}, {"b", 3}}, {}, {{"c", 1}}});
    auto right = t.stream<std::pair<Text, Text>>({{{"a", "x"}, {"a", "y"}, {"d", "z"}}, {{"a", "x"}}, {{"c", "cc"}}});
    using Joined = std::pair<Text, std::pair<int, Text>>;
    auto out = t.run(left.join(right), 3);
    EXPECT_EQ(sorted(out[0].records),
              (std::vector<Joined>{{"a", {1, "x"}}, {"a", {1, "y"}}, {"a", {2, "x"}}, {"a", {2, "y"}}}));
    EXPECT_TRUE(out[1].records.empty());
    EXPECT_EQ(sorted(out[2].records), (std::vector<Joined>{{"c", {1, "cc"}}}));
  });
}

TEST(Pd, PD_10_join_of_a_stream_with_itself_and_with_what_is_made_of_it) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<Pair>({{{1, 1}, {2, 2}, {1, 3}}});
    auto sums = in.reduce_by_key(std::plus{});
    auto itself = t.output(sums.join(sums));
    auto share = t.output(in.join(sums));
    t.run(1);
    using Joined = std::vector<std::pair<int, std::pair<int, int>>>;
    EXPECT_EQ(sorted(itself.batches()[0].records), (Joined{{1, {4, 4}}, {2, {2, 2}}}));
    EXPECT_EQ(sorted(share.batches()[0].records), (Joined{{1, {1, 4}}, {1, {3, 4}}, {2, {2, 2}}}));
  });
}

}  // namespace
}  // namespace sluice::testing
