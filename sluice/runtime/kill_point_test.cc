#include "sluice/runtime/kill_point.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace sluice {
namespace {

// Arms and disarms what the environment says, as a program does when it starts.
class KillPoint : public ::testing::Test {
 protected:
  ~KillPoint() override {
    set_kill_point_hook({});
    ::unsetenv("SLUICE_KILL");
    arm_kill_points_from_environment();
  }

  static void arm(const char* value) {
    ::setenv("SLUICE_KILL", value, 1);
    arm_kill_points_from_environment();
  }

  std::vector<std::string> passed_;
};

using KillPointDeathTest = KillPoint;
using Places = std::vector<std::string>;

TEST_F(KillPoint, DoesNothingUnlessArmed) {
  EXPECT_FALSE(kill_points_armed());
  kill_point("journal.before_sync");
}

TEST_F(KillPoint, TellsAHookOfEachPlaceThatIsPassed) {
  set_kill_point_hook([&](std::string_view place) { passed_.emplace_back(place); });
  EXPECT_TRUE(kill_points_armed());
  kill_point("driver.a");
  const std::string owner = "journal";
  kill_point(owner, ".before_sync");
  EXPECT_EQ(passed_, (Places{"driver.a", "journal.before_sync"}));
  set_kill_point_hook({});
  EXPECT_FALSE(kill_points_armed());
  kill_point("driver.a");
  EXPECT_EQ(passed_.size(), 2u);
}

TEST_F(KillPoint, TellsTheHookOfWhatIsNotDueInTheEnvironment) {
  arm("driver.a:3");
  set_kill_point_hook([&](std::string_view place) { passed_.emplace_back(place); });
  kill_point("driver.a");
  EXPECT_EQ(passed_, Places{"driver.a"});
  set_kill_point_hook({});
  EXPECT_TRUE(kill_points_armed());
}

TEST_F(KillPointDeathTest, KillsAtThePassThatTheEnvironmentNames) {
  EXPECT_EXIT(
      {
        arm("driver.a:3");
        for (const char* pass : {"one", "two", "three", "four"}) {
          std::fprintf(stderr, "%s ", pass);
          kill_point("driver", ".b");
          kill_point("driver", ".a");
        }
      },
      ::testing::KilledBySignal(SIGKILL), "^one two three $");
}

TEST_F(KillPointDeathTest, TakesSeveralPlaces) {
  EXPECT_EXIT(
      {
        arm("driver.a:9,journal.after_sync:1");
        kill_point("driver.a");
        std::fprintf(stderr, "went on");
        kill_point("journal.after_sync");
        std::fprintf(stderr, " too far");
      },
      ::testing::KilledBySignal(SIGKILL), "^went on$");
}

TEST_F(KillPointDeathTest, RefusesAValueThatItDoesNotUnderstand) {
  for (const char* value : {"journal", "journal:", ":1", "journal:0", "journal:-1", "journal:1x", "journal:1,", ",",
                            "a:1,,b:1", "journal:99999999999999999999"}) {
    EXPECT_EXIT(arm(value), ::testing::ExitedWithCode(2), "SLUICE_KILL=") << value;
  }
}

// In the "threadsafe" style the test runs in this program started anew, which nothing but its own start has armed.
TEST_F(KillPointDeathTest, IsArmedBeforeMain) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  ::setenv("SLUICE_KILL", "test.started:1", 1);
  EXPECT_EXIT(kill_point("test.started"), ::testing::KilledBySignal(SIGKILL), "");
  GTEST_FLAG_SET(death_test_style, "fast");
}

}  // namespace
}  // namespace sluice
