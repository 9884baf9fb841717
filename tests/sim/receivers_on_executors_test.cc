// Receivers on executors that are killed one after the other, without a checkpoint: what has been stored lies on two
// executors, and a receiver that is started again goes on behind it. Nothing is lost, and nothing seen twice.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "sluice/cluster/scheduler.h"
#include "sluice/sluice.h"
#include "sluice/testkit/mortal_machine.h"
#include "sluice/testkit/simulation.h"
#include "sluice/testkit/testing.h"
#include "tests/scenario/cluster_jobs.h"
#include "tests/scenario/lives.h"

namespace sluice::testing {
namespace {

using namespace std::chrono_literals;
using Number = std::int64_t;

constexpr Number numbers = 300;

// Receivers are made by factories that capture no pointers.
Random* chance = nullptr;

/// Numbers in order, from where it is told that the last one has stopped; in blocks of its own, or one by one.
class Counting : public Receiver<std::pair<int, Number>> {
 public:
  Counting(int stream, bool slow) : stream_(stream), slow_(slow) {}
  void run(ReceiverContext<std::pair<int, Number>>& context) override {
    const std::string position = context.last_position();
    Number next = position.empty() ? 0 : std::stoll(position);
    while (next < numbers) {
      if (!context.wait_for(std::chrono::milliseconds(chance->below(slow_ ? 40 : 20)))) return;
      std::vector<std::pair<int, Number>> some(1 + chance->below(10));
      for (auto& each : some) each = {stream_, next++};
      while (some.back().second >= numbers) some.pop_back();
      if (!context.store(some, std::to_string(std::min(next, numbers)))) return;
    }
    context.end_of_input();
  }

 private:
  int stream_;
  bool slow_;
};

/// Calls body(sim, random, seed) in a simulation of each seed from 1 on, until one fails.
template <class Body>
void for_each_seed(std::uint64_t count, const Body& body) {
  for (std::uint64_t seed = 1; seed <= count; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    chance = &random;
    Simulation sim(seed);
    sim.run([&] { body(sim, random, seed); });
    if (::testing::Test::HasFailure()) return;
  }
}

std::uint64_t simulate(std::uint64_t seed) {
  Random random(seed * 31 + 7);
  chance = &random;
  SimulationOptions faults;
  faults.message_delay_max = seed % 5 == 0 ? 50ms : 5ms;
  Simulation sim(seed, faults);
  sim.run([&] {
    StreamTestOptions options{.batch = 100ms, .partitions = 1 + seed % 4, .cores = 1 + seed % 2};
    options.executors = 3 + seed % 2;
    options.runtime = &sim;
    options.block_interval = 50ms;
    options.without_checkpoint = true;
    StreamTest t(options);
    std::vector<DStream<std::pair<int, Number>>> streams;
    for (int i = 0; i < 2; ++i) {
      streams.push_back(t.streaming().receiver_stream<std::pair<int, Number>>(
          [i] { return std::make_unique<Counting>(i, i == 1); }, {.restart_delay = 10ms}));
    }
    const auto all = t.streaming().union_of(streams);
    auto seen = t.output(all);
    auto counts = t.output(all.map([](const std::pair<int, Number>& each) { return std::pair(each.first, 1L); })
                               .reduce_by_key_and_window(std::plus{}, {.length = 300ms, .slide = 100ms}));
    t.start();
    std::size_t had = 0;
    for (std::uint64_t kills = 1 + random.below(5); kills > 0; --kills) {
      // One that is lost is found out, and its copies are made again between batches.
      t.run(static_cast<int>(18 + random.below(5)));
      sim.wait_for(Duration(random.below(Duration(100ms).count())));
      t.kill_executor(random.below(options.executors));
    }
    for (int i = 0; i < 100 && had < 2 * numbers; ++i) {
      t.run(10);
      had = 0;
      for (const auto& batch : seen.batches()) had += batch.records.size();
    }
    t.run(4);
    std::vector<std::vector<Number>> got(2);
    std::vector<std::map<int, long>> by_batch;
    for (const auto& batch : seen.batches()) {
      by_batch.emplace_back();
      for (const auto& [stream, number] : batch.records) {
        got[static_cast<std::size_t>(stream)].push_back(number);
        ++by_batch.back()[stream];
      }
    }
    std::vector<Number> expected(numbers);
    std::iota(expected.begin(), expected.end(), 0);
    ASSERT_EQ(got[0], expected);
    ASSERT_EQ(got[1], expected);
    const auto windows = counts.batches();
    for (std::size_t b = 0; b < windows.size(); ++b) {
      std::map<int, long> in_window;
      for (std::size_t back = 0; back < 3 && back <= b; ++back) {
        for (const auto& [stream, count] : by_batch[b - back]) in_window[stream] += count;
      }
      std::map<int, long> counted;
      for (const auto& [stream, count] : windows[b].records) counted[stream] += count;
      ASSERT_EQ(counted, in_window) << "batch " << b;
    }
  });
  return sim.trace_hash();
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t seeds = 20;
#else
constexpr std::uint64_t seeds = 500;
#endif

TEST(ReceiversOnExecutorsSimulated, NothingIsLostOrSeenTwiceWhenOneExecutorAfterTheOtherIsKilled) {
  const auto [first, end] = seeds_to_run(seeds);
  for (std::uint64_t seed = first; seed < end; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const std::uint64_t trace = simulate(seed);
    if (HasFailure()) return;
    if (seed % 100 == 0) {
      EXPECT_EQ(simulate(seed), trace);
    }
  }
}

/// Executors on which receivers have been started, one after the other.
struct Places : StreamingListener {
  std::vector<sluice::detail::ExecutorId> started;
  void on_receiver_started(const ReceiverInfo& info) override {
    started.push_back(static_cast<sluice::detail::ExecutorId>(std::stoul(info.place.substr(info.place.find(' ')))));
  }
};

// RC-10. The preference is kept in mind: a receiver that had to go elsewhere is started on its host again when it has
// to move and that one is back.
TEST(ReceiversOnExecutorsSimulated, AReceiverRunsOnTheHostThatItPrefersWhileThereIsAFreeCore) {
  int went_elsewhere = 0;
  for_each_seed(20, [&](Simulation& sim, Random&, std::uint64_t seed) {
    StreamTestOptions options{.batch = 100ms, .partitions = 2, .cores = 1};
    options.executors = 3;
    options.runtime = &sim;
    options.without_checkpoint = true;
    StreamTest t(options);
    const auto places = std::make_shared<Places>();
    t.streaming().add_listener(places);
    auto& members = members_of(t.context());
    const std::string host = "host-" + std::to_string(seed % 3);
    t.output(t.streaming().receiver_stream<std::pair<int, Number>>(
        [] { return std::make_unique<Counting>(0, false); }, {.restart_delay = 10ms, .preferred_location = host}));
    t.start();
    const auto run_until_started = [&](std::size_t times) {
      for (int i = 0; i < 50 && places->started.size() < times; ++i) t.run(1);
      ASSERT_EQ(places->started.size(), times);
    };
    run_until_started(1);
    EXPECT_TRUE(members.is_on(places->started[0], host));
    // Its executor dies: there is none on that host for a moment.
    t.kill_executor(seed % 3);
    run_until_started(2);
    ASSERT_TRUE(members.wait_for(3, 10s));
    if (members.is_on(places->started[1], host)) return;  // the new one was there in time
    ++went_elsewhere;
    for (std::size_t number = 0; number < 3; ++number) {
      if (members.is_on(places->started[1], "host-" + std::to_string(number))) t.kill_executor(number);
    }
    run_until_started(3);
    EXPECT_TRUE(members.is_on(places->started[2], host));
  });
  EXPECT_GT(went_elsewhere, 0);
}

struct LostBlocks : StreamingListener {
  std::uint64_t count = 0;
  void on_batch_completed(const BatchInfo& batch) override { count += batch.inputs[0].blocks_lost; }
};

// One copy and no log: with an executor its blocks are gone that no batch was done with. Their batches go without them,
// and that is counted; nothing is seen twice, and the stream goes on.
TEST(ReceiversOnExecutorsSimulated, BlocksThatNobodyHasAnyMoreAreCounted) {
  const OutsideSetting one("SLUICE_BLOCK_COPIES", "1");
  std::uint64_t lost_in_all = 0;
  for_each_seed(50, [&](Simulation& sim, Random& random, std::uint64_t) {
    StreamTestOptions options{.batch = 100ms, .partitions = 2, .cores = 1};
    options.executors = 2;
    options.runtime = &sim;
    options.block_interval = 50ms;
    options.without_checkpoint = true;
    StreamTest t(options);
    const auto lost = std::make_shared<LostBlocks>();
    t.streaming().add_listener(lost);
    auto seen = t.output(t.streaming().receiver_stream<std::pair<int, Number>>(
        [] { return std::make_unique<Counting>(0, false); }, {.restart_delay = 10ms}));
    t.start();
    for (int kills = 0; kills < 3; ++kills) {
      t.run(3);
      sim.wait_for(Duration(random.below(Duration(100ms).count())));
      t.kill_executor(random.below(options.executors));
    }
    t.run(60);
    std::vector<Number> got;
    for (const auto& batch : seen.batches()) {
      for (const auto& [stream, number] : batch.records) got.push_back(number);
    }
    ASSERT_TRUE(std::is_sorted(got.begin(), got.end()));
    ASSERT_EQ(std::adjacent_find(got.begin(), got.end()), got.end()) << "seen twice";
    // A block has from one to ten records.
    const std::uint64_t missing = numbers - got.size();
    EXPECT_GE(missing, lost->count);
    EXPECT_LE(missing, 10 * lost->count);
    lost_in_all += lost->count;
  });
  EXPECT_GT(lost_in_all, 20u);
}

// A window holds what a batch has made of blocks that are in the log no more, and both executors that have some of it
// are lost, or all that executors have on disk: then it is taken from the checkpoint, and not made again by who is
// left.
TEST(ReceiversOnExecutorsSimulated, WhatAWindowHoldsOutlivesTheBlocksThatItWasMadeOf) {
  for_each_seed(20, [&](Simulation& sim, Random&, std::uint64_t seed) {
    StreamTestOptions options{.batch = 100ms, .partitions = 3, .cores = 2};
    options.executors = 3;
    const bool on_disk = seed % 2 == 0;
    if (on_disk) options.memory_bytes = 2;
    options.spill_directory = "/spill";
    options.runtime = &sim;
    options.block_interval = 50ms;
    options.checkpoint = "/ckpt";
    options.checkpoint_interval = 1ms;
    options.recordings = std::make_shared<Recordings>();
    const auto live = [&](const auto& body) {
      StreamTest t(options);
      const auto input = t.streaming().receiver_stream<std::pair<int, Number>>(
          [] { return std::make_unique<Counting>(0, true); }, {.restart_delay = 10ms});
      const auto seen = t.output(input.map([](const std::pair<int, Number>& each) { return each.second; }));
      const auto counts = t.output(input.map([](const std::pair<int, Number>&) { return std::pair(0, 1L); })
                                       .reduce_by_key(std::plus{})
                                       .reduce_by_key_and_window(std::plus{}, {.length = 2s, .slide = 100ms}));
      t.start();
      body(t);
      return std::pair(seen, counts);
    };
    // Ends between two batches: the next life has blocks of this one.
    live([&](StreamTest& t) {
      t.run(3);
      sim.wait_for(50ms);
    });
    const auto of_first_life = [&sim] {
      const std::vector<FileInfo> log = sim.files().list("/ckpt/wal").value();
      return std::count_if(log.begin(), log.end(),
                           [](const FileInfo& file) { return base_name(file.path).starts_with("0000000001-"); });
    };
    ASSERT_GT(of_first_life(), 0);
    const auto [seen, counts] = live([&](StreamTest& t) {
      for (int i = 0; i < 12 && of_first_life() > 0; ++i) t.run(1);
      ASSERT_EQ(of_first_life(), 0);
      if (on_disk) {
        ASSERT_TRUE(sim.files().remove_all("/spill"));
      } else {
        for (const std::size_t executor : {seed % 3, (seed + 1) % 3}) t.kill_executor(executor);
      }
      t.run(4);
    });
    std::vector<Number> got;
    std::map<Time, long> until;
    for (const auto& batch : seen.batches()) {
      got.insert(got.end(), batch.records.begin(), batch.records.end());
      until[batch.time] = static_cast<long>(got.size());
    }
    std::vector<Number> expected(got.size());
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(got, expected);
    long last = 0;
    for (const auto& batch : counts.batches()) {
      long count = 0;
      for (const auto& [key, of_key] : batch.records) count += of_key;
      EXPECT_EQ(count, until.at(batch.time)) << "the window reaches back to the beginning";
      last = count;
    }
    EXPECT_GT(last, 10);
  });
}

}  // namespace
}  // namespace sluice::testing
