// Runs a scenario wherever the engine runs: one, two and four threads, tasks encoded or not, and the simulation.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/sluice.h"
#include "sluice/testkit/simulation.h"
#include "sluice/testkit/testing.h"

namespace sluice::testing {

using namespace std::chrono_literals;

/// Calls `body` with a StreamTest of each kind that lives through it. The body declares, runs and asserts. For
/// scenarios whose inputs cannot be read again, that count calls, or that end or look into their stream.
inline void everywhere_in_one_life(const std::function<void(StreamTest&)>& body, const StreamTestOptions& base = {}) {
  for (const std::size_t cores : {1, 2, 4}) {
    for (const bool as_on_a_cluster : {true, false}) {
      SCOPED_TRACE("local[" + std::to_string(cores) + "]" + (as_on_a_cluster ? ", encoded" : ", as it is"));
      StreamTestOptions options = base;
      options.cores = cores;
      options.encode_tasks = options.check_views = as_on_a_cluster;
      StreamTest t(options);
      body(t);
    }
  }
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE("simulation, seed " + std::to_string(seed));
    Simulation sim(seed);
    sim.run([&] {
      StreamTestOptions options = base;
      options.runtime = &sim;
      options.cores = 3;
      StreamTest t(options);
      body(t);
    });
  }
}

/// The same, and restarted from its checkpoint after every batch: with a checkpoint at each batch, and with one at the
/// beginning alone, so that all batches before run again for their state.
inline void everywhere(const std::function<void(StreamTest&)>& body, const StreamTestOptions& base = {}) {
  everywhere_in_one_life(body, base);
  for (const Duration checkpoint_interval : {Duration(1ms), Duration(1h)}) {
    if (base.without_checkpoint) return;
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
