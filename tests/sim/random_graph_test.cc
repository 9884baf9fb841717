// Random operator graphs against a model, with threads and in the simulation.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "sluice/testkit/faulty_filesystem.h"
#include "sluice/testkit/mortal_machine.h"
#include "sluice/testkit/simulation.h"
#include "sluice/testkit/testing.h"
#include "tests/scenario/lives.h"
#include "tests/sim/random_graph.h"

namespace sluice::testing {
namespace {

using namespace std::chrono_literals;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t inputs_a_graph = 5;
constexpr std::uint64_t simulated_seeds = 60;
constexpr std::uint64_t cluster_seeds = 40;
#else
constexpr std::uint64_t inputs_a_graph = 100;
constexpr std::uint64_t simulated_seeds = 1000;
constexpr std::uint64_t cluster_seeds = 2000;
#endif
constexpr std::uint64_t graphs = 50;
constexpr std::size_t batches = 6;

// As a multiset, batch by batch.
void expect_model(const std::vector<Batches>& expected, std::vector<Batches> got) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t o = 0; o < got.size(); ++o) {
    ASSERT_EQ(got[o].size(), expected[o].size()) << "output " << o;
    for (std::size_t b = 0; b < got[o].size(); ++b) {
      std::sort(got[o][b].begin(), got[o][b].end());
      ASSERT_EQ(got[o][b], expected[o][b]) << "output " << o << ", batch " << b;
    }
  }
}

class RandomGraph : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(RandomGraph, GivesWhatTheModelGivesInOneOrderWhateverTheThreads) {
  Random random(GetParam());
  const Graph graph = random_graph(random);
  SCOPED_TRACE("graph " + std::to_string(GetParam()) + ":\n" + to_string(graph));
  for (std::uint64_t i = 0; i < inputs_a_graph; ++i) {
    SCOPED_TRACE("input " + std::to_string(i));
    const auto inputs = random_inputs(graph, batches, random);
    const auto expected = model(graph, inputs, batches);
    std::vector<Batches> in_order;
    for (const std::size_t cores : {1, 2, 4}) {
      SCOPED_TRACE("local[" + std::to_string(cores) + "]");
      StreamTestOptions options{.partitions = 1 + i % 3, .cores = cores, .hash_seed = i};
      options.encode_tasks = options.check_views = (i + cores) % 3 == 0;
      const auto got = run_engine(graph, inputs, batches, options, i % 4 == 0);
      if (cores == 1) in_order = got;
      ASSERT_EQ(got, in_order);
      expect_model(expected, got);
      if (HasFatalFailure()) return;
    }
    if (i % 25 != 0) continue;
    for (const std::size_t executors : {2, 3}) {
      SCOPED_TRACE("local-cluster[" + std::to_string(executors) + ",1]");
      StreamTestOptions options{.partitions = 1 + i % 3, .cores = 1, .executors = executors, .hash_seed = i};
      ASSERT_EQ(run_engine(graph, inputs, batches, options, i % 4 == 0), in_order);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, RandomGraph, ::testing::Range(std::uint64_t{1}, graphs + 1));

// Returns the trace.
std::uint64_t simulate(std::uint64_t seed) {
  Random random(seed);
  const Graph graph = random_graph(random);
  SCOPED_TRACE("graph:\n" + to_string(graph));
  const std::size_t few = 4;
  const auto inputs = random_inputs(graph, few, random);
  Simulation sim(seed);
  std::vector<Batches> got;
  sim.run([&] {
    StreamTestOptions options{.partitions = 1 + seed % 3, .cores = 1 + seed % 4, .runtime = &sim, .hash_seed = seed};
    options.encode_tasks = options.check_views = seed % 2 == 0;
    got = run_engine(graph, inputs, few, options, false);
  });
  expect_model(model(graph, inputs, few), got);
  return sim.trace_hash();
}

TEST(RandomGraphSimulated, GivesWhatTheModelGivesForEverySeed) {
  for (std::uint64_t seed = 1; seed <= simulated_seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const std::uint64_t trace = simulate(seed);
    if (seed % 100 == 0) {
      EXPECT_EQ(simulate(seed), trace);
    }
    if (HasFailure()) return;
  }
}

// On a cluster whose executors are killed and whose connections are cut, at any moment: nobody sees it in what comes
// out, also when two executors are killed that have the same state.
// `only_leave`: none is killed, and nothing is lost. `spilled` and `damaged`: files of shuffle output, in all.
std::uint64_t simulate_cluster(std::uint64_t seed, bool only_leave, std::uint64_t& spilled, std::uint64_t& damaged) {
  Random random(seed);
  const Graph graph = random_graph(random);
  SCOPED_TRACE("graph:\n" + to_string(graph));
  const std::size_t few = 6;
  const auto inputs = random_inputs(graph, few, random);
  SimulationOptions faults;
  faults.message_delay_max = seed % 5 == 0 ? 50ms : 5ms;
  faults.connection_cut = seed % 4 == 0 && !only_leave ? 0.0005 : 0;
  Simulation sim(seed, faults);
  FaultyFileSystem files(sim.files());
  FaultyRuntime runtime(sim, files);
  std::vector<Batches> got;
  const OutsideSetting soon("SLUICE_SPECULATION_MIN", "1");
  sim.run([&] {
    StreamTestOptions options{.batch = 100ms, .partitions = 1 + seed % 4, .cores = 1 + seed % 2};
    options.executors = 2 + seed % 3;
    options.state_copies = only_leave ? 1 + seed % 2 : 2;
    options.speculation = seed % 2 == 1;
    options.runtime = &sim;
    options.hash_seed = seed;
    options.check_views = seed % 2 == 0;
    // Nothing that a shuffle leaves has room, or hardly anything, and a file of it is perhaps gone.
    const bool spills = seed % 3 == 1;
    if (spills) {
      options.runtime = &runtime;
      options.memory_bytes = seed % 2 == 0 ? 1 : 4 << 10;
      if (seed % 5 < 2) {
        files.fail({.operation = FileOperation::open, .path_part = "/shuffle-", .nth = 1 + random.below(20)});
      }
    }
    options.shuffle_compression = seed % 4 < 2 ? "none" : "lz4";
    options.checkpoint = "/checkpoint";
    options.checkpoint_interval = seed % 3 == 0 ? Duration(1ms) : Duration(250ms);
    options.recordings = std::make_shared<Recordings>();
    options.missed = MissedBatches::run;
    for (bool is_done = false; !is_done;) {
      try {
        got = run_engine(graph, inputs, few, options, false, [&](StreamTest& t) {
          for (std::uint64_t kills = random.below(4); kills > 0; --kills) {
            sim.wait_for(Duration(random.below(Duration(300ms).count())));
            const std::size_t executor = random.below(options.executors);
            only_leave || random.chance(0.3) ? t.let_executor_leave(executor) : t.kill_executor(executor);
          }
        });
        is_done = true;
      } catch (const Error& error) {
        // A job that has lost four of them ends.
        if (only_leave || error.code() != Code::process_failed) throw;
      }
    }
  });
  const std::vector<Batches> expected = model(graph, inputs, few);
  // A batch that is late may be followed by the next before the stream is stopped.
  for (std::size_t o = 0; o < expected.size(); ++o) got[o].resize(std::min(got[o].size(), expected[o].size()));
  expect_model(expected, got);
  spilled += files.count(FileOperation::create, "/shuffle-");
  damaged += files.failures();
  return sim.trace_hash();
}

TEST(RandomGraphSimulated, GivesWhatTheModelGivesOnAClusterWhoseExecutorsDie) {
  const auto [first, end] = seeds_to_run(cluster_seeds);
  std::uint64_t spilled = 0;
  std::uint64_t damaged = 0;
  for (std::uint64_t seed = first; seed < end; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const std::uint64_t trace = simulate_cluster(seed, false, spilled, damaged);
    if (seed % 100 == 0) {
      EXPECT_EQ(simulate_cluster(seed, false, spilled, damaged), trace);
    }
    if (HasFailure()) return;
  }
  if (end - first < 40) return;  // of a few seeds perhaps none does
  EXPECT_GT(spilled, 0U);
  EXPECT_GT(damaged, 0U);
}

TEST(RandomGraphSimulated, GivesWhatTheModelGivesWhileExecutorsLeaveAndOthersCome) {
  const auto [first, end] = seeds_to_run(cluster_seeds / 4);
  std::uint64_t spilled = 0;
  std::uint64_t damaged = 0;
  for (std::uint64_t seed = first; seed < end; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    simulate_cluster(seed, true, spilled, damaged);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace sluice::testing
