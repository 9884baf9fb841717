// Runs a scenario wherever the engine runs: one, two and four threads, tasks encoded or not, and the simulation.
//
// SLUICE_SCENARIO_SEEDS=N in the environment leaves out the threads and simulates N seeds instead of 3.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/runtime/checksum.h"
#include "sluice/runtime/process.h"
#include "sluice/sluice.h"
#include "sluice/testkit/simulation.h"
#include "sluice/testkit/testing.h"

namespace sluice::testing {

using namespace std::chrono_literals;

/// Seeds asked for in the environment.
inline std::optional<std::uint64_t> seeds_asked_for() {
  const std::optional<std::string> text = environment("SLUICE_SCENARIO_SEEDS");
  return text.has_value() ? std::optional<std::uint64_t>(std::stoull(*text)) : std::nullopt;
}

/// True for one in a hundred pairs of test and seed, always the same ones.
inline bool runs_twice(std::uint64_t seed) {
  const auto* const test = ::testing::UnitTest::GetInstance()->current_test_info();
  return crc32c(std::string(test->test_suite_name()) + "." + test->name() + std::to_string(seed)) % 100 == 0;
}

/// The trace of a run of `body` in a simulation.
inline std::uint64_t simulate(const std::function<void(StreamTest&)>& body, const StreamTestOptions& base,
                              std::uint64_t seed) {
  Simulation sim(seed);
  sim.run([&] {
    StreamTestOptions options = base;
    options.runtime = &sim;
    options.cores = 3;
    StreamTest t(options);
    body(t);
  });
  return sim.trace_hash();
}

/// Calls `body` with a StreamTest of each kind that lives through it. The body declares, runs and asserts. For
/// scenarios whose inputs cannot be read again, that count calls, or that end or look into their stream.
inline void everywhere_in_one_life(const std::function<void(StreamTest&)>& body, const StreamTestOptions& base = {}) {
  const std::optional<std::uint64_t> seeds = seeds_asked_for();
  for (const std::size_t cores : {1, 2, 4}) {
    if (seeds.has_value()) break;
    for (const bool as_on_a_cluster : {true, false}) {
      SCOPED_TRACE("local[" + std::to_string(cores) + "]" + (as_on_a_cluster ? ", encoded" : ", as it is"));
      StreamTestOptions options = base;
      options.cores = cores;
      options.encode_tasks = options.check_views = as_on_a_cluster;
      StreamTest t(options);
      body(t);
    }
  }
  for (const std::size_t executors : {2, 3}) {
    if (seeds.has_value()) break;
    SCOPED_TRACE("local-cluster[" + std::to_string(executors) + ",1]");
    StreamTestOptions options = base;
    options.executors = executors;
    options.cores = 1;
    StreamTest t(options);
    body(t);
  }
  for (std::uint64_t seed = 1; seed <= seeds.value_or(3); ++seed) {
    SCOPED_TRACE("simulation, seed " + std::to_string(seed));
    const std::uint64_t trace = simulate(body, base, seed);
    if (runs_twice(seed)) {
      EXPECT_EQ(simulate(body, base, seed), trace) << "not the same again";
    }
  }
}

/// The same, and restarted from its checkpoint after every batch: with a checkpoint at each batch, and with one at the
/// beginning alone, so that all batches before run again for their state.
inline void everywhere(const std::function<void(StreamTest&)>& body, const StreamTestOptions& base = {}) {
  everywhere_in_one_life(body, base);
  for (const Duration checkpoint_interval : {Duration(1ms), Duration(1h)}) {
    if (base.without_checkpoint || seeds_asked_for().has_value()) return;
    SCOPED_TRACE("restarted, checkpoints " + to_string(checkpoint_interval) + " apart");
    StreamTestOptions options = base;
    options.checkpoint_interval = checkpoint_interval;
    run_restarted(options, body);
  }
}

/// The records in order, for what comes in the order of hashes.
template <class T>
std::vector<T> sorted(const Records<T>& records) {
  std::vector<T> all = records.to_vector();
  std::sort(all.begin(), all.end());
  return all;
}

/// The records of each batch, in the order of partitions.
template <class T>
std::vector<std::vector<T>> values(const std::vector<Batch<T>>& batches) {
  std::vector<std::vector<T>> all;
  for (const Batch<T>& batch : batches) all.push_back(batch.records.to_vector());
  return all;
}

/// The same, sorted within each batch.
template <class T>
std::vector<std::vector<T>> sorted_values(const std::vector<Batch<T>>& batches) {
  std::vector<std::vector<T>> all;
  for (const Batch<T>& batch : batches) all.push_back(sorted(batch.records));
  return all;
}

using Ints = std::vector<std::vector<int>>;
using Pair = std::pair<int, int>;
using Pairs = std::vector<std::vector<Pair>>;

}  // namespace sluice::testing
