// Tasks and outputs that fail: retries, state after a failed attempt, which batch and which output is hit.
#include <atomic>
#include <optional>
#include <span>
#include <stdexcept>

#include "tests/scenario/matrix.h"

namespace sluice::testing {
namespace {

// Task functions must not capture pointers; in one process they share statics.
std::atomic<int> failures_left{0};
void fail_if_told() {
  if (failures_left.fetch_sub(1) > 0) throw std::runtime_error("told to fail");
}

TEST(Failures, ATaskThatFailsOnceIsTriedAgainAndCountsOnce) {
  everywhere_in_one_life([](StreamTest& t) {
    const Accumulator seen = t.context().accumulator();
    auto in = t.stream<Pair>({{{1, 1}, {2, 2}, {1, 3}}, {{1, 1}}});
    auto out = t.output(in.map([seen](const Pair& p) {
                            seen.add(1);
                            if (p.first == 2) fail_if_told();
                            return p;
                          }).reduce_by_key(std::plus{}));
    failures_left = 2;
    t.run(2);
    EXPECT_EQ(sorted_values(out.batches()), (Pairs{{{1, 4}, {2, 2}}, {{1, 1}}}));
    EXPECT_EQ(t.context().value_of(seen), 4);
    EXPECT_EQ(t.context().engine()->counters().failed_attempts, 2U);
  });
}

TEST(Failures, ATaskThatFailsAsOftenAsItMayBeTriedStopsTheStreamWithItsError) {
  everywhere_in_one_life([](StreamTest& t) {
    auto in = t.stream<int>({{1}, {2}, {3}});
    auto out = t.output(in.map([](int x) {
      if (x == 2) fail_if_told();
      return x;
    }));
    failures_left = 4;
    try {
      t.run(3);
      ADD_FAILURE() << "run() should throw";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::task_failed);
      EXPECT_EQ(error.details().operation, "map");
      EXPECT_NE(std::string(error.what()).find("told to fail"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("failures_test.cc"), std::string::npos) << error.what();
    }
    EXPECT_EQ(values(out.batches()), (Ints{{1}}));
    EXPECT_EQ(t.streaming().state(), StreamState::stopped);
    EXPECT_EQ(t.batches_completed(), 1U);
    EXPECT_EQ(failures_left.load(), 0);
  });
}

TEST(Failures, OneFailedOutputDoesNotKeepTheOthersOfItsBatchFromSucceeding) {
  struct Failed : StreamingListener {
    std::vector<OutputInfo> outputs;
    void on_batch_completed(const BatchInfo& batch) override { outputs = batch.outputs; }
  };
  everywhere([](StreamTest& t) {
    const auto listener = std::make_shared<Failed>();
    t.streaming().add_listener(listener);
    auto in = t.stream<int>({{1, 2}, {3}});
    auto first = t.output(in);
    in.foreach_rdd([](const Rdd<int>& rdd) {
      if (rdd.count() == 2) throw std::runtime_error("the driver's function fails");
    });
    auto second = t.output(in.map([](int x) -> int {
      if (x > 0) throw std::runtime_error("the task fails");
      return x;
    }));
    auto last = t.output(in.map([](int x) { return std::pair(x, 1); }).reduce_by_key(std::plus{}));
    EXPECT_THROW(t.run(2), std::runtime_error);
    EXPECT_EQ(values(first.batches()), (Ints{{1, 2}}));
    EXPECT_TRUE(second.batches().empty());
    EXPECT_EQ(sorted_values(last.batches()), (Pairs{{{1, 1}, {2, 1}}}));
    ASSERT_EQ(listener->outputs.size(), 4U);
    EXPECT_EQ(listener->outputs[0].failure, "");
    EXPECT_NE(listener->outputs[1].failure.find("SLU-202"), std::string::npos);
    EXPECT_NE(listener->outputs[1].failure.find("the driver's function fails"), std::string::npos);
    EXPECT_NE(listener->outputs[2].failure.find("the task fails"), std::string::npos);
    EXPECT_EQ(listener->outputs[3].failure, "");
  });
}

TEST(Failures, WhatOutputsShareIsCountedOnceThoughOneOfThemFails) {
  everywhere([](StreamTest& t) {
    const Accumulator parsed = t.context().accumulator();
    const Accumulator reduced = t.context().accumulator();
    auto in = t.stream<Pair>({{{1, 1}, {2, 2}, {1, 3}, {3, 0}, {4, 0}, {5, 0}}, {{1, 1}}});
    auto shared = in.map([parsed](const Pair& p) {
      parsed.add(1);
      return p;
    });
    auto sums = shared.reduce_by_key(std::plus{}).map([reduced](const Pair& p) {
      reduced.add(1);
      return p;
    });
    auto first = t.output(shared.map([](const Pair& p) { return p.first; }));
    auto bad = t.output(shared.map([](const Pair& p) {
      if (p.first == 4) throw std::runtime_error("four");
      return p;
    }));
    auto bad_later = t.output(sums.filter([](const Pair& p) {
      if (p.first == 5) throw std::runtime_error("five");
      return true;
    }));
    auto last = t.output(sums);
    try {
      t.run(2);
      ADD_FAILURE() << "run() should throw";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("four"), std::string::npos) << error.what();
    }
    EXPECT_EQ(sorted_values(first.batches()), (Ints{{1, 1, 2, 3, 4, 5}}));
    EXPECT_TRUE(bad.batches().empty());
    EXPECT_TRUE(bad_later.batches().empty());
    EXPECT_EQ(sorted_values(last.batches()), (Pairs{{{1, 4}, {2, 2}, {3, 0}, {4, 0}, {5, 0}}}));
    EXPECT_EQ(t.context().value_of(parsed), 6);
    EXPECT_EQ(t.context().value_of(reduced), 5);
  });
}

TEST(Failures, AStateIsUpdatedOnceThoughWhatReadsItFails) {
  everywhere([](StreamTest& t) {
    const Accumulator updates = t.context().accumulator();
    auto in = t.stream<Pair>({{{1, 1}, {2, 2}, {3, 3}}, {{1, 1}}});
    auto state = in.update_state_by_key([updates](std::span<const int> now, std::optional<int> before) {
      updates.add(1);
      return std::optional(before.value_or(0) + static_cast<int>(now.size()));
    });
    auto out = t.output(state);
    const auto throws_at_two = [](const Pair& p) {
      if (p.first == 2) throw std::runtime_error("two");
      return p;
    };
    auto bad = t.output(state.map(throws_at_two));
    auto others = state.map(throws_at_two);
    auto worse = t.output(others);
    auto worst = t.output(others.reduce_by_key(std::plus{}));
    EXPECT_THROW(t.run(1), Error);
    EXPECT_EQ(sorted_values(out.batches()), (Pairs{{{1, 1}, {2, 1}, {3, 1}}}));
    EXPECT_TRUE(bad.batches().empty());
    EXPECT_TRUE(worse.batches().empty());
    EXPECT_TRUE(worst.batches().empty());
    EXPECT_EQ(t.context().value_of(updates), 3);
  });
}

TEST(Failures, AFailingTransformFailsItsOutputAlone) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<int>({{1}});
    auto good = t.output(in);
    auto bad = t.output(in.transform([](const Rdd<int>& rdd) {
      if (rdd.count() > 0) throw std::runtime_error("no");
      return rdd;
    }));
    EXPECT_THROW(t.run(1), std::runtime_error);
    EXPECT_EQ(values(good.batches()), (Ints{{1}}));
    EXPECT_TRUE(bad.batches().empty());
  });
}

std::optional<int> add_or_fail(std::span<const int> now, std::optional<int> before) {
  int sum = before.value_or(0);
  for (const int x : now) sum += x;
  if (sum % 7 == 0) fail_if_told();
  return sum;
}

TEST(Failures, StateIsRolledBackAfterAFailedAttempt) {
  std::vector<std::vector<Pair>> batches;
  for (int b = 0; b < 8; ++b) {
    std::vector<Pair>& batch = batches.emplace_back();
    for (int i = 0; i < 40; ++i) batch.emplace_back((i * 11 + b * 17) % 61, i + b);
  }
  for (const bool idle : {false, true}) {
    StreamTest calm;
    failures_left = 0;
    const auto expected = values(calm.run(
        calm.stream<Pair>(batches).update_state_by_key(add_or_fail, {.idle_keeps_state = idle}), batches.size()));
    everywhere_in_one_life([&](StreamTest& t) {
      auto state = t.stream<Pair>(batches).update_state_by_key(add_or_fail, {.idle_keeps_state = idle});
      auto out = t.output(state);
      for (std::size_t b = 0; b < batches.size(); ++b) {
        failures_left = 3;
        t.run(1);
      }
      EXPECT_EQ(values(out.batches()), expected);  // in the same order, too
      EXPECT_GT(t.context().engine()->counters().failed_attempts, 10U);
    });
  }
}

TEST(Failures, AWindowWithAnInverseIsRolledBackAfterAFailedAttempt) {
  std::vector<std::vector<Pair>> batches;
  for (int b = 0; b < 10; ++b) {
    std::vector<Pair>& batch = batches.emplace_back();
    for (int i = 0; i < 30; ++i) batch.emplace_back((i * 7 + b * 13) % 50, i + b);
  }
  const auto plus = [](int a, int b) { return a + b; };
  const auto minus = [](int a, int b) {
    if (b % 3 == 0) fail_if_told();
    return a - b;
  };
  StreamTest calm;
  failures_left = 0;
  const auto expected =
      values(calm.run(calm.stream<Pair>(batches).reduce_by_key_and_window(plus, minus, {.length = 3s}), 14));
  everywhere_in_one_life([&](StreamTest& t) {
    auto out = t.output(t.stream<Pair>(batches).reduce_by_key_and_window(plus, minus, {.length = 3s}));
    for (int b = 0; b < 14; ++b) {
      failures_left = 3;
      t.run(1);
    }
    EXPECT_EQ(values(out.batches()), expected);
    EXPECT_GT(t.context().engine()->counters().failed_attempts, 10U);
  });
}

TEST(Failures, StateIsRolledBackWhenWhatFollowsItFails) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<Pair>({{{1, 1}, {2, 2}, {3, 3}}, {{1, 1}, {4, 4}}, {{4, 1}}});
    auto state = in.update_state_by_key([](std::span<const int> now, std::optional<int> before) {
      int sum = before.value_or(0);
      for (const int x : now) sum += x;
      return std::optional(sum);
    });
    auto out = t.output(state.map([](const Pair& p) {
      if (p.first == 3 || p.first == 4) fail_if_told();
      return p;
    }));
    for (int b = 0; b < 3; ++b) {
      failures_left = 3;
      t.run(1);
    }
    EXPECT_EQ(sorted_values(out.batches()),
              (Pairs{{{1, 1}, {2, 2}, {3, 3}}, {{1, 2}, {2, 2}, {3, 3}, {4, 4}}, {{1, 2}, {2, 2}, {3, 3}, {4, 5}}}));
  });
}

TEST(Failures, AnOutputThatFailsBesideAStateDoesNotUpdateItTwice) {
  everywhere([](StreamTest& t) {
    const Accumulator calls = t.context().accumulator();
    auto in = t.stream<Pair>({{{1, 1}, {2, 2}}});
    auto state = in.update_state_by_key([calls](std::span<const int> now, std::optional<int> before) {
      calls.add(1);
      return std::optional(before.value_or(0) + static_cast<int>(now.size()));
    });
    auto out = t.output(state);
    auto bad = t.output(in.map([](const Pair& p) -> Pair { throw std::runtime_error(std::to_string(p.first)); }));
    EXPECT_THROW(t.run(1), Error);
    EXPECT_EQ(sorted_values(out.batches()), (Pairs{{{1, 1}, {2, 1}}}));
  });
}

TEST(Failures, APartitionFunctionThatFailsInTheMiddleIsUnwound) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<int>({{1, 2, 3, 4}});
    auto out = t.output(in.map_partitions([](Partition<int>& partition) {
                            const std::string held(100, 'x');
                            std::vector<int> all;
                            for (const int x : partition) {
                              if (x % 2 == 0) fail_if_told();
                              all.push_back(x + static_cast<int>(partition.attempt() > 3));
                            }
                            return all;
                          }).filter([](int x) {
      if (x == 3) fail_if_told();
      return true;
    }));
    failures_left = 3;
    t.run(1);
    EXPECT_EQ(values(out.batches()), (Ints{{1, 2, 3, 4}}));
  });
}

TEST(Failures, AStoppedStreamIsNoErrorAndAFailedOneTellsEveryWaiter) {
  StreamTest t;
  t.stream<int>({{1}}).foreach_rdd([](const Rdd<int>&) { throw std::runtime_error("boom"); });
  EXPECT_THROW(t.run(1), std::runtime_error);
  EXPECT_THROW(t.streaming().await_termination(), std::runtime_error);
  EXPECT_THROW(t.streaming().await_termination(1s), std::runtime_error);
  EXPECT_THROW(t.stop(), std::runtime_error);
}

TEST(Failures, AJobWhoseCachedPartitionsDoNotAllFitIsRight) {
  Context ctx{{.master = "local[2]", .partitions = 4, .memory_bytes = 1}};
  std::vector<int> values(10000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int>(i);
  const auto a = ctx.parallelize(values).map([](int x) { return x + 1; }).cache();
  const auto b = ctx.parallelize(values).map([](int x) { return x + 2; }).cache();
  const auto c = ctx.parallelize(values).map([](int x) { return x + 3; }).persist(StorageLevel::memory_and_disk);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(a.count(), 10000);
    EXPECT_EQ(a.union_with(b).union_with(c).union_with(a).count(), 40000);
    EXPECT_EQ(c.reduce(std::plus{}), b.reduce(std::plus{}) + 10000);
  }
}

}  // namespace
}  // namespace sluice::testing
