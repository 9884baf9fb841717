// Copies of state that are being made when who is to keep them dies.
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sluice/cluster/scheduler.h"
#include "sluice/sluice.h"
#include "sluice/testkit/simulation.h"
#include "sluice/testkit/testing.h"
#include "tests/scenario/cluster_jobs.h"

namespace sluice::testing {
namespace {

using namespace std::chrono_literals;

// Its owner has told one what it has changed, and nobody else.
TEST(StateCopiesSimulated, ACheckpointHasAllOfTheStateWhenACopyCouldNotBeMade) {
  constexpr std::size_t batches = 10;
  std::vector<std::vector<std::pair<int, long>>> input;
  std::vector<long> sums;
  for (std::size_t b = 0; b < batches; ++b) {
    input.push_back({{0, 1L << b}});
    sums.push_back((1L << (b + 1)) - 1);
  }
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    SimulationOptions network;
    network.message_delay_max = 10ms;
    Simulation sim(seed, network);
    sim.run([&] {
      // One slot with several states, which are copied one after the other.
      StreamTestOptions options{.batch = 100ms, .partitions = 1, .cores = 1};
      options.executors = 2;
      options.runtime = &sim;
      options.checkpoint = "/ckpt";
      options.checkpoint_interval = 1ms;
      options.recordings = std::make_shared<Recordings>();
      const auto live = [&](const auto& body) {
        StreamTest t(options);
        const auto pairs = t.stream(input);
        std::vector<Output<std::pair<int, long>>> outs;
        for (int i = 0; i < 4; ++i) {
          outs.push_back(t.output(pairs.update_state_by_key([](std::span<const long> now, std::optional<long> sum) {
            for (const long value : now) sum = sum.value_or(0) + value;
            return sum;
          })));
        }
        t.start();
        body(t);
        return outs;
      };
      live([&](StreamTest& t) {
        auto& executors = dynamic_cast<sluice::detail::ThreadExecutors&>(scheduler_of(t.context()).manager());
        t.run(2);
        const std::size_t executor = random.below(2);
        // It comes back, and gets copies when a batch is done; then it is away for the rest of this life.
        executors.cut_off(executor, 150ms);
        const auto killing = sim.spawn("kill", [&] {
          sim.wait_for(150ms + Duration(random.below(Duration(200ms).count())));
          executors.cut_off(executor, 1h);
        });
        t.run(5);
        killing->join();
      });
      const auto outs = live([&](StreamTest& t) { t.run(batches); });
      for (const auto& out : outs) {
        std::vector<long> seen;
        for (const auto& batch : out.batches()) seen.push_back(batch.records[0].second);
        EXPECT_EQ(seen, sums);
      }
    });
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace sluice::testing
