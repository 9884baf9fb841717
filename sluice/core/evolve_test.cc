#include "sluice/core/evolve.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/runtime/errors.h"

namespace sluice::detail {
namespace {

struct PointBefore {
  std::int32_t x;
  std::int32_t y;
};
struct Point {
  std::int32_t x = 0;
  std::int32_t y = 0;
  std::int32_t z = 9;
};
struct PathBefore {
  std::string name;
  std::vector<PointBefore> points;
  std::optional<PointBefore> last;
  std::pair<std::int64_t, PointBefore> first;
};
struct Path {
  std::string name;
  std::vector<Point> points;
  std::optional<Point> last;
  std::pair<std::int64_t, Point> first;
  std::string comment = "none";
};

template <class Before, class Now>
Now through(const Before& before) {
  Encoder out;
  encode(before, out);
  Decoder in(out.view());
  Now now = ValueReader<Now>(schema_of<Before>())(in);
  in.expect_end();
  return now;
}

TEST(Evolve, ReadsTheSameTypeAsItIs) {
  const auto now = through<PathBefore, PathBefore>({"a", {{1, 2}}, std::nullopt, {3, {4, 5}}});
  EXPECT_EQ(now.points.size(), 1U);
  EXPECT_EQ(now.first.second.y, 5);
}

TEST(Evolve, GivesNewFieldsTheirDefaultsAlsoInsideOtherValues) {
  const auto now = through<PathBefore, Path>({"a", {{1, 2}, {3, 4}}, PointBefore{5, 6}, {7, {8, 9}}});
  EXPECT_EQ(now.name, "a");
  ASSERT_EQ(now.points.size(), 2U);
  EXPECT_EQ(now.points[1].x, 3);
  EXPECT_EQ(now.points[1].z, 9);
  EXPECT_EQ(now.last->y, 6);
  EXPECT_EQ(now.last->z, 9);
  EXPECT_EQ(now.first.first, 7);
  EXPECT_EQ(now.first.second.z, 9);
  EXPECT_EQ(now.comment, "none");
}

TEST(Evolve, TellsWhatDoesNotFit) {
  struct Other {
    std::int32_t x = 0;
    std::int64_t y = 0;
  };
  EXPECT_TRUE(ValueReader<Point>::fits(schema_of<PointBefore>()));
  EXPECT_FALSE(ValueReader<PointBefore>::fits(schema_of<Point>())) << "a field has gone";
  EXPECT_FALSE(ValueReader<Other>::fits(schema_of<PointBefore>())) << "a field has another type";
  EXPECT_FALSE(ValueReader<std::int32_t>::fits("i64"));
  EXPECT_FALSE(ValueReader<std::int32_t>::fits("pair<i64"));
  EXPECT_THROW(ValueReader<std::int32_t>("i64"), Error);
}

TEST(Evolve, ParsesAnySchemaOrRefusesIt) {
  EXPECT_EQ(parse_schema("array<i32,5>")->parts.size(), 2U);
  EXPECT_EQ(parse_schema("struct{}")->parts.size(), 0U);
  for (const char* bad : {"", "<", "a<", "a<b", "a<b,", "a>b", "a<b>c", "a{b>", ","}) {
    EXPECT_FALSE(parse_schema(bad).has_value()) << bad;
  }
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "a<";
  EXPECT_FALSE(parse_schema(deep).has_value());
}

}  // namespace
}  // namespace sluice::detail
