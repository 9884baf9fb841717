#include "sluice/runtime/clock.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

using namespace std::chrono_literals;

TEST(DurationText, UsesTheLargestUnitThatFits) {
  EXPECT_EQ(to_string(2s), "2 s");
  EXPECT_EQ(to_string(20ms), "20 ms");
  EXPECT_EQ(to_string(3us), "3 us");
  EXPECT_EQ(to_string(7ns), "7 ns");
}

TEST(DurationText, ShowsAtMostThreeDecimals) {
  EXPECT_EQ(to_string(1500ms), "1.5 s");
  EXPECT_EQ(to_string(1'234'567us), "1.235 s");
  EXPECT_EQ(to_string(1'050ns), "1.05 us");
}

TEST(DurationText, CountsLongTimesInSeconds) { EXPECT_EQ(to_string(90min), "5400 s"); }

TEST(DurationText, RoundsUpIntoTheNextUnit) {
  EXPECT_EQ(to_string(999'999'999ns), "1 s");
  EXPECT_EQ(to_string(999'499'999ns), "999.5 ms");
}

TEST(DurationText, HasNoUnitSmallerThanZeroSeconds) { EXPECT_EQ(to_string(0ns), "0 s"); }

TEST(DurationText, KeepsTheSign) {
  EXPECT_EQ(to_string(-1500us), "-1.5 ms");
  EXPECT_EQ(to_string(Duration::min()), "-9223372036.855 s");
}

TEST(Milliseconds, RoundTowardsThePast) {
  EXPECT_EQ(to_milliseconds(Time(1'999'999ns)), 1);
  EXPECT_EQ(to_milliseconds(Time(-1ns)), -1);
}

}  // namespace
}  // namespace sluice
