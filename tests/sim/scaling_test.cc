// A stream that has more executors when its batches take too long, and fewer when they are short.
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "sluice/cluster/scheduler.h"
#include "sluice/sluice.h"
#include "sluice/testkit/simulation.h"
#include "sluice/testkit/testing.h"
#include "tests/scenario/cluster_jobs.h"
#include "tests/scenario/lives.h"

namespace sluice::testing {
namespace {

using namespace std::chrono_literals;

TEST(ScalingSimulated, ExecutorsComeAndLeaveWithTheLoadAndStateGoesWithThem) {
  const OutsideSetting on("SLUICE_DYNAMIC_ALLOCATION", "true");
  const OutsideSetting interval("SLUICE_SCALING_INTERVAL", "1");
  const OutsideSetting most("SLUICE_EXECUTORS_MAX", "4");
  for (const std::size_t state_copies : {1, 2}) {
    SimulationOptions network;
    network.message_delay_max = 500us;
    Simulation sim(7 + state_copies, network);
    sim.run([&] {
      StreamTestOptions options{.batch = 100ms, .partitions = 4, .cores = 1};
      options.executors = 1;
      options.state_copies = state_copies;
      options.runtime = &sim;
      StreamTest t(options);
      std::vector<std::vector<std::pair<int, long>>> input;
      std::map<int, long> expected;
      constexpr int batches = 120;
      for (int b = 0; b < batches; ++b) {
        input.emplace_back();
        for (int k = 0; k < 8; ++k) {
          input.back().emplace_back(k, b);
          expected[k] += b;
        }
      }
      // Until batch 40 each of the four tasks takes its time.
      const auto slow = t.stream(input).map([](const std::pair<int, long>& pair) {
        auto* const task = sluice::detail::TaskContext::current();
        if (pair.second < 40) task->environment().runtime.wait_for(20ms);
        return pair;
      });
      const auto out = t.output(slow.update_state_by_key([](std::span<const long> values, std::optional<long> sum) {
        for (const long value : values) sum = sum.value_or(0) + value;
        return sum;
      }));
      auto& members = members_of(t.context());
      std::size_t most_executors = 0;
      for (int b = 0; b < batches; ++b) {
        t.run(1);
        most_executors = std::max(most_executors, members.ready().size());
      }
      EXPECT_GT(most_executors, 1u);
      EXPECT_LE(most_executors, 4u);
      EXPECT_EQ(members.pids().size(), 1u);
      std::map<int, long> got;
      for (const auto& [key, sum] : out.batches().back().records) got[key] += sum;
      EXPECT_EQ(got, expected);
    });
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace sluice::testing
