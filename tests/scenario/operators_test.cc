// Rows DS: operators on streams.
#include "tests/scenario/matrix.h"

namespace sluice::testing {
namespace {

TEST(Ds, DS_01_map_filter_and_flat_map_keep_the_order) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<int>({{1, 2, 3, 4, 5}, {}, {6}});
    auto squares = t.output(in.map([](int x) { return x * x; }));
    auto odd = t.output(in.filter([](int x) { return x % 2 == 1; }));
    auto twice = t.output(in.flat_map([](int x) { return std::vector<int>(2, x); }));
    t.run(3);
    EXPECT_EQ(values(squares.batches()), (Ints{{1, 4, 9, 16, 25}, {}, {36}}));
    EXPECT_EQ(values(odd.batches()), (Ints{{1, 3, 5}, {}, {}}));
    EXPECT_EQ(values(twice.batches()), (Ints{{1, 1, 2, 2, 3, 3, 4, 4, 5, 5}, {}, {6, 6}}));
  });
}

TEST(Ds, DS_01_words_are_views_and_text_comes_back_owned) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<std::string_view>({{"a longer word than fits inline", "b  c"}, {"d"}});
    auto out = t.run(in.flat_map(split(' ')), 2);
    ASSERT_EQ(out.size(), 2U);
    EXPECT_EQ(out[0].records, (std::vector<std::string>{"a", "longer", "word", "than", "fits", "inline", "b", "c"}));
    EXPECT_EQ(out[1].records, (std::vector<std::string>{"d"}));
  });
}

TEST(Ds, DS_01_apply_runs_steps_in_one_loop) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<int>({{1, 2, 3, 4}});
    auto out = t.run(in.apply(filter([](int x) { return x > 2; }) | map([](int x) { return -x; })), 1);
    EXPECT_EQ(values(out), (Ints{{-3, -4}}));
  });
}

TEST(Ds, DS_03_map_partitions_runs_once_a_partition_also_for_empty_ones) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<int>({{1, 2, 3, 4}, {}});
    auto sums = in.map_partitions([](Partition<int>& partition) {
      int sum = static_cast<int>(partition.index()) * 100;
      for (const int x : partition) sum += x;
      return std::vector<int>{sum};
    });
    EXPECT_EQ(values(t.run(sums, 2)), (Ints{{3, 107}, {0, 100}}));
  });
}

TEST(Ds, DS_04_reduce_of_an_empty_batch_is_empty) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<int>({{1, 2, 3}, {}, {7}});
    EXPECT_EQ(values(t.run(in.reduce(std::plus{}), 3)), (Ints{{6}, {}, {7}}));
  });
}

TEST(Ds, DS_05_count_of_an_empty_batch_is_zero) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<int>({{1, 2, 3}, {}, {7}});
    EXPECT_EQ(values(t.run(in.count(), 3)), (std::vector<std::vector<std::int64_t>>{{3}, {0}, {1}}));
  });
}

TEST(Ds, DS_06_count_by_value) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<std::string_view>({{"x", "y", "x", "x"}, {}});
    auto out = t.run(in.count_by_value(), 2);
    EXPECT_EQ(sorted(out[0].records), (std::vector<std::pair<std::string_view, std::int64_t>>{{"x", 3}, {"y", 1}}));
    EXPECT_TRUE(out[1].records.empty());
  });
}

TEST(Ds, DS_07_repartition_gives_exactly_so_many_partitions_of_about_equal_size) {
  everywhere_in_one_life([](StreamTest& t) {
    auto in = t.stream<int>({{1, 2, 3, 4, 5, 6, 7}, {}});
    std::vector<std::size_t> partitions;
    auto five = in.repartition(5);
    five.foreach_rdd([&](const Rdd<int>& rdd) { partitions.push_back(rdd.partitions()); });
    auto all = t.output(five);
    auto sizes = t.output(five.map_partitions([](Partition<int>& partition) {
      int n = 0;
      for ([[maybe_unused]] const int x : partition) ++n;
      return std::vector<int>{n};
    }));
    auto one = t.output(in.coalesce(1));
    t.run(2);
    EXPECT_EQ(partitions, (std::vector<std::size_t>{5, 5}));
    EXPECT_EQ(sorted_values(all.batches()), (Ints{{1, 2, 3, 4, 5, 6, 7}, {}}));
    EXPECT_EQ(sizes.batches()[0].records.size(), 5U);
    for (const int n : sizes.batches()[0].records) EXPECT_TRUE(n == 1 || n == 2) << n;
    EXPECT_EQ(values(one.batches()), (Ints{{1, 2, 3, 4, 5, 6, 7}, {}}));
  });
}

TEST(Ds, DS_08_transform_runs_in_the_driver_and_may_run_actions) {
  everywhere_in_one_life([](StreamTest& t) {
    auto in = t.stream<int>({{3, 1, 2}, {}, {9, 8}});
    std::vector<Time> times;
    auto below_the_largest = in.transform([&](const Rdd<int>& rdd, Time time) {
      times.push_back(time);
      int largest = 0;
      for (const int x : rdd.collect()) largest = std::max(largest, x);
      return rdd.filter([largest](int x) { return x < largest; });
    });
    auto out = t.run(below_the_largest, 3);
    EXPECT_EQ(values(out), (Ints{{1, 2}, {}, {8}}));
    ASSERT_EQ(times.size(), 3U);
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(times[i], out[i].time);
  });
}

TEST(Ds, DS_09_transform_with_takes_the_rdds_of_both_streams) {
  everywhere([](StreamTest& t) {
    auto a = t.stream<int>({{1}, {2}});
    auto b = t.stream<std::string_view>({{"x", "y"}, {}});
    auto both = a.transform_with(b, [](const Rdd<int>& numbers, const Rdd<std::string_view>& texts) {
      const auto size = static_cast<int>(texts.count());
      return numbers.map([size](int x) { return x * 10 + size; });
    });
    EXPECT_EQ(values(t.run(both, 2)), (Ints{{12}, {20}}));
  });
}

TEST(Ds, DS_10_windows_are_partial_first_then_slide) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<int>({{1}, {2}, {3}, {}, {5}});
    EXPECT_EQ(values(t.run(in.window({.length = 3s}), 6)), (Ints{{1}, {1, 2}, {1, 2, 3}, {2, 3}, {3, 5}, {5}}));
  });
}

TEST(Ds, DS_10_a_slide_longer_than_the_batch_fires_fewer_and_one_longer_than_the_window_leaves_data_out) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<int>({{1}, {2}, {3}, {4}, {5}, {6}, {7}});
    auto every_second = t.output(in.window({.length = 3s, .slide = 2s}));
    auto gaps = t.output(in.window({.length = 1s, .slide = 3s}));
    auto of_windows = t.output(in.window({.length = 2s, .slide = 2s}).window({.length = 4s, .slide = 2s}));
    t.run(7);
    EXPECT_EQ(values(every_second.batches()), (Ints{{1, 2}, {2, 3, 4}, {4, 5, 6}}));
    EXPECT_EQ(values(gaps.batches()), (Ints{{3}, {6}}));
    EXPECT_EQ(values(of_windows.batches()), (Ints{{1, 2}, {1, 2, 3, 4}, {3, 4, 5, 6}}));
    EXPECT_EQ(every_second.batches()[1].time - every_second.batches()[0].time, 2s);
  });
}

TEST(Ds, DS_11_what_a_window_looks_back_at_is_computed_once) {
  everywhere_in_one_life([](StreamTest& t) {
    const Accumulator mapped = t.context().accumulator();
    auto in = t.stream<int>({{1, 2}, {3}, {4}, {5}});
    auto out = t.run(in.map([mapped](int x) {
                         mapped.add(1);
                         return x;
                       }).window({.length = 3s}),
                     4);
    EXPECT_EQ(values(out), (Ints{{1, 2}, {1, 2, 3}, {1, 2, 3, 4}, {3, 4, 5}}));
    EXPECT_EQ(t.context().value_of(mapped), 5);
  });
}

TEST(Ds, DS_12_reduce_by_window_of_an_empty_window_is_empty) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<int>({{}, {1, 2}, {3}, {}, {}});
    EXPECT_EQ(values(t.run(in.reduce_by_window(std::plus{}, {.length = 2s}), 5)), (Ints{{}, {3}, {6}, {3}, {}}));
  });
}

TEST(Ds, DS_13_reduce_by_window_with_an_inverse_has_no_record_while_the_window_holds_none) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<int>({{}, {1, 2}, {-3}, {}, {}, {5}});
    EXPECT_EQ(values(t.run(in.reduce_by_window(std::plus{}, std::minus{}, {.length = 2s}), 6)),
              (Ints{{}, {3}, {0}, {-3}, {}, {5}}));
  });
}

TEST(Ds, DS_16_union_has_the_records_of_this_stream_then_of_the_other) {
  everywhere_in_one_life([](StreamTest& t) {
    auto a = t.stream<int>({{1, 2}, {}});
    auto b = t.stream<int>({{3}, {4, 5}});
    auto c = t.stream<int>({{6}});
    std::vector<std::size_t> partitions;
    auto ab = a.union_with(b);
    ab.foreach_rdd([&](const Rdd<int>& rdd) { partitions.push_back(rdd.partitions()); });
    auto two = t.output(ab);
    auto three = t.output(t.streaming().union_of<int>({a, b, c}));
    auto self = t.output(a.union_with(a));
    t.run(2);
    EXPECT_EQ(values(two.batches()), (Ints{{1, 2, 3}, {4, 5}}));
    EXPECT_EQ(values(three.batches()), (Ints{{1, 2, 3, 6}, {4, 5}}));
    EXPECT_EQ(values(self.batches()), (Ints{{1, 2, 1, 2}, {}}));
    EXPECT_EQ(partitions, (std::vector<std::size_t>{4, 4}));
  });
}

TEST(Ds, DS_18_a_cached_stream_is_computed_once_for_all_who_ask) {
  everywhere([](StreamTest& t) {
    const Accumulator mapped = t.context().accumulator();
    auto in = t.stream<int>({{1, 2, 3}});
    auto cached = in.map([mapped](int x) {
                      mapped.add(1);
                      return x;
                    }).cache();
    cached.foreach_rdd([](const Rdd<int>& rdd) {
      EXPECT_EQ(rdd.count(), 3);
      EXPECT_EQ(rdd.reduce(std::plus{}), 6);
    });
    t.run(1);
    EXPECT_EQ(t.context().value_of(mapped), 3);
  });
}

TEST(Ds, DS_20_foreach_rdd_is_called_once_a_batch_in_the_driver_also_for_empty_ones) {
  everywhere_in_one_life([](StreamTest& t) {
    auto in = t.stream<int>({{1}, {}});
    std::vector<std::int64_t> counts;
    in.foreach_rdd([&](const Rdd<int>& rdd) { counts.push_back(rdd.count()); });
    t.run(2);
    EXPECT_EQ(counts, (std::vector<std::int64_t>{1, 0}));
  });
}

TEST(Ds, DS_20_functions_of_outputs_never_overlap_and_start_in_the_order_of_declaration) {
  everywhere_in_one_life([](StreamTest& t) {
    auto in = t.stream<int>({{1, 2}, {3}});
    std::string order;
    int inside = 0;
    for (const char name : {'a', 'b', 'c'}) {
      in.foreach_rdd([&, name](const Rdd<int>& rdd) {
        EXPECT_EQ(++inside, 1);
        order += name;
        --inside;
        const auto sum = rdd.map([](int x) { return x + 1; }).collect();  // the others come to their turn here
        EXPECT_EQ(++inside, 1);
        order += static_cast<char>(name - 'a' + 'A');
        --inside;
        EXPECT_FALSE(sum.empty());
      });
    }
    t.run(2);
    EXPECT_EQ(order, "abcABCabcABC");
  });
}

TEST(Ds, DS_21_print_shows_the_time_and_the_first_records) {
  StreamTest t;
  t.stream<int>({{1, 2, 3}, {}}).print(2);
  ::testing::internal::CaptureStdout();
  t.run(2);
  const std::string rule = "-------------------------------------------\n";
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), rule + "Time: 1700000001000 ms\n" + rule + "1\n2\n...\n\n" +
                                                          rule + "Time: 1700000002000 ms\n" + rule + "\n");
}

TEST(Ds, DS_22_save_as_text_files_writes_a_directory_a_batch_also_for_empty_ones) {
  everywhere_in_one_life([](StreamTest& t) {
    FileSystem& files = t.runtime().files();
    const std::string base = "/tmp/sluice-test-" + std::to_string(t.runtime().random_seed());
    t.stream<int>({{1, 2}, {}}).save_as_text_files(base + "/out", "txt");
    const std::string first = base + "/out-1700000001000.txt";
    // Of processes that were killed.
    files.make_directories(first);
    for (const char* name : {"/.part-00000.4.unfinished", "/._SUCCESS.1.tmp"}) files.create(first + name)->append("1");
    t.run(2);
    EXPECT_EQ(files.list(first).value().size(), 3U);
    EXPECT_EQ(read_file(files, first + "/part-00000"), "1\n");
    EXPECT_EQ(read_file(files, first + "/part-00001"), "2\n");
    EXPECT_TRUE(files.stat(first + "/_SUCCESS").has_value());
    EXPECT_EQ(read_file(files, base + "/out-1700000002000.txt/part-00001"), "");
    files.remove_all(base);
  });
}

TEST(Ds, DS_25_seven_outputs_on_one_parsed_stream_parse_each_line_once_a_batch) {
  everywhere_in_one_life([](StreamTest& t) {
    const Accumulator parsed = t.context().accumulator();
    auto in = t.stream<std::string_view>({{"1 a", "2 b", "3 a"}, {"4 a"}});
    auto lines = in.map([parsed](std::string_view line) {
      parsed.add(1);
      return std::pair<std::string_view, int>(line.substr(2), line[0] - '0');
    });
    auto sums = t.output(lines.reduce_by_key(std::plus{}));
    auto counts = t.output(lines.count());
    auto all = t.output(lines);
    auto largest =
        t.output(lines.map([](std::pair<std::string_view, int> p) { return p.second; }).reduce([](int a, int b) {
          return std::max(a, b);
        }));
    auto groups = t.output(lines.group_by_key());
    std::vector<std::int64_t> seen;
    lines.foreach_rdd([&](const Rdd<std::pair<std::string_view, int>>& rdd) { seen.push_back(rdd.count()); });
    lines.foreach_rdd([&](const Rdd<std::pair<std::string_view, int>>& rdd) {
      seen.push_back(static_cast<std::int64_t>(rdd.take(2).size()));
    });
    t.run(1);
    EXPECT_EQ(t.context().value_of(parsed), 3);
    t.run(1);
    EXPECT_EQ(t.context().value_of(parsed), 4);
    using Sums = std::vector<std::pair<std::string_view, int>>;
    EXPECT_EQ(sorted(sums.batches()[0].records), (Sums{{"a", 4}, {"b", 2}}));
    EXPECT_EQ(sorted(sums.batches()[1].records), (Sums{{"a", 4}}));
    EXPECT_EQ(all.batches()[0].records.size(), 3U);
    EXPECT_EQ(counts.batches()[0].records[0], 3);
    EXPECT_EQ(largest.batches()[0].records[0], 3);
    EXPECT_EQ(groups.batches()[0].records.size(), 2U);
    EXPECT_EQ(seen, (std::vector<std::int64_t>{3, 2, 1, 1}));
  });
}

TEST(Ds, DS_28_rdds_are_forgotten_when_nothing_can_ask_for_them) {
  everywhere_in_one_life(
      [](StreamTest& t) {
        auto in = t.stream<int>({});
        auto out = t.output(in.map([](int x) { return std::pair(x, x); })
                                .reduce_by_key_and_window(std::plus{}, {.length = 3s})
                                .count());
        t.run(5);
        const std::size_t shuffles = t.context().engine()->shuffles().size();
        const std::size_t bytes = t.context().engine()->blocks().memory_bytes();
        t.run(20);
        EXPECT_EQ(t.context().engine()->shuffles().size(), shuffles);
        EXPECT_EQ(t.context().engine()->blocks().memory_bytes(), bytes);
        EXPECT_EQ(out.batches().size(), 25U);
      },
      {.without_checkpoint = true});  // a checkpoint in the making holds what it has not written yet
}

TEST(Sc, SC_17_queue_stream_takes_one_rdd_a_batch_or_all) {
  everywhere_in_one_life([](StreamTest& t) {
    RddQueue<int> one;
    RddQueue<int> all;
    for (int i = 0; i < 3; ++i) {
      one.push(t.context().parallelize(std::vector{i}));
      all.push(t.context().parallelize(std::vector{i}));
    }
    auto singly = t.output(t.streaming().queue_stream(one));
    auto together = t.output(t.streaming().queue_stream(all, false));
    t.run(4);
    EXPECT_EQ(values(singly.batches()), (Ints{{0}, {1}, {2}, {}}));
    EXPECT_EQ(values(together.batches()), (Ints{{0, 1, 2}, {}, {}, {}}));
  });
}

}  // namespace
}  // namespace sluice::testing
