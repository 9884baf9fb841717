#include "sluice/cluster/scaling.h"

#include <gtest/gtest.h>

#include "sluice/runtime/errors.h"

namespace sluice::detail {
namespace {

using namespace std::chrono_literals;

Time at(Duration since) { return Time(1'700'000'000s + since); }

TEST(Scaling, AsksForMoreWhereBatchesTakeTooLongAndForOneFewerWhereTheyAreShort) {
  Scaling scaling({.is_on = true, .interval = 60s, .max = 10});
  EXPECT_EQ(scaling.wanted(at(0s), 4, 0), 4u);
  scaling.add(1s, 1s);
  EXPECT_EQ(scaling.wanted(at(59s), 4, 0), 4u) << "not due yet";
  scaling.add(800ms, 1s);
  EXPECT_EQ(scaling.wanted(at(60s), 4, 0), 5u) << "0.9: one more at least";
  EXPECT_EQ(scaling.wanted(at(120s), 5, 0), 5u) << "no batch since";
  scaling.add(2600ms, 1s);
  EXPECT_EQ(scaling.wanted(at(180s), 5, 0), 8u);
  scaling.add(9s, 1s);
  EXPECT_EQ(scaling.wanted(at(240s), 8, 0), 10u) << "at most";
  scaling.add(500ms, 1s);
  EXPECT_EQ(scaling.wanted(at(300s), 8, 0), 8u);
  scaling.add(300ms, 1s);
  EXPECT_EQ(scaling.wanted(at(360s), 8, 0), 7u);
}

TEST(Scaling, KeepsOneAndOneForEachReceiver) {
  Scaling scaling({.is_on = true, .interval = 1s, .max = 10});
  Duration now = 0s;
  const auto idle = [&](std::size_t executors, std::size_t receivers) {
    scaling.add(1ms, 1s);
    return scaling.wanted(at(now += 2s), executors, receivers);
  };
  idle(1, 0);
  EXPECT_EQ(idle(1, 0), 1u);
  EXPECT_EQ(idle(3, 3), 3u);
  EXPECT_EQ(idle(3, 2), 2u);
}

TEST(Scaling, RefusesWhatCannotBe) {
  EXPECT_THROW(Scaling({.up = 0.3, .down = 0.3, .max = 1}), Error);
  EXPECT_THROW(Scaling({.min = 3, .max = 2}), Error);
}

}  // namespace
}  // namespace sluice::detail
