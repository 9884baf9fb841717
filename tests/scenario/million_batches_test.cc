// own main, slow
// A stream that runs for long: a million small batches through keyed state and windows, and memory stays where it was.
// (Labelled slow; about a minute. Sanitizers multiply the time of a batch, so there it runs fewer.)
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sluice/runtime/process.h"
#include "sluice/sluice.h"
#include "sluice/testkit/hand_runtime.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using Hit = std::pair<std::int64_t, std::int64_t>;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t batches = 20'000;
constexpr std::int64_t growth_bytes_max = 64 << 20;  // sanitizers keep what was freed for a while
#else
constexpr std::size_t batches = 1'000'000;
constexpr std::int64_t growth_bytes_max = 8 << 20;
#endif
constexpr std::size_t at_once = 1000;

/// 3 records a batch, of 17 keys.
std::vector<Hit> hits_of(std::size_t batch) {
  std::vector<Hit> hits;
  for (std::size_t i = 0; i < 3; ++i) hits.emplace_back(static_cast<std::int64_t>((batch * 3 + i) % 17), 1);
  return hits;
}

TEST(Stream, OfAMillionBatchesKeepsItsMemoryFlat) {
  testing::HandRuntime runtime;
  const std::string checkpoint =
      (runtime.files().stat("/dev/shm").has_value() ? "/dev/shm/sluice-million-" : "/tmp/sluice-million-") +
      std::to_string(runtime.random_seed());
  std::int64_t windowed = 0;
  std::int64_t total = 0;
  {
    const Context context({.app = "million", .master = "local[1]", .partitions = 1, .runtime = &runtime});
    const StreamingContext ssc(context, {.batch = 1ms, .checkpoint = checkpoint});
    const RddQueue<Hit> queue;
    const auto hits = ssc.queue_stream(queue);
    hits.reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = 10ms})
        .name("window")
        .foreach_rdd([&windowed](const Rdd<Hit>& rdd, Time) {
          windowed = 0;
          for (const Hit& hit : rdd.collect()) windowed += hit.second;
        });
    hits.update_state_by_key(
            [](std::span<const std::int64_t> now, std::optional<std::int64_t> sum) {
              std::int64_t all = sum.value_or(0);
              for (const std::int64_t n : now) all += n;
              return std::optional(all);
            },
            {.idle_keeps_state = true})
        .name("totals")
        .foreach_rdd([&total](const Rdd<Hit>& rdd, Time) {
          total = 0;
          for (const Hit& hit : rdd.collect()) total += hit.second;
        });
    ssc.start();
    std::size_t resident_early = 0;
    for (std::size_t done = 0; done < batches; done += at_once) {
      for (std::size_t i = 0; i < at_once; ++i) queue.push(context.parallelize(hits_of(done + i), 1));
      runtime.advance(at_once * 1ms);
      ASSERT_EQ(ssc.driver()->await_batches(done + at_once), done + at_once);
      if (done + at_once == batches / 10) resident_early = resident_bytes();
    }
    const auto grown = static_cast<std::int64_t>(resident_bytes()) - static_cast<std::int64_t>(resident_early);
    ssc.stop();
    EXPECT_EQ(windowed, 30);
    EXPECT_EQ(total, static_cast<std::int64_t>(3 * batches));
    EXPECT_LT(grown, growth_bytes_max);
    EXPECT_LT(context.engine()->shuffles().size(), 100U);
    std::printf("memory grew by %lld KiB over the last nine tenths of %zu batches\n",
                static_cast<long long>(grown / 1024), batches);
  }
  runtime.files().remove_all(checkpoint);
}

}  // namespace
}  // namespace sluice
