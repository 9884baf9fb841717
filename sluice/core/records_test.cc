#include "sluice/core/records.h"

#include <gtest/gtest.h>

#include <array>
#include <ranges>
#include <string>

#include "sluice/runtime/errors.h"

namespace sluice {
namespace {

static_assert(std::ranges::random_access_range<Records<int>>);
static_assert(std::ranges::random_access_range<Records<bool>>);
static_assert(std::ranges::sized_range<Records<std::string_view>>);
static_assert(std::ranges::common_range<const Records<std::string_view>>);

using Hit = std::pair<std::string_view, long>;

TEST(Records, OwnTheBytesOfTheirViews) {
  Arena::set_poison_released(true);
  Records<Hit> hits;
  {
    RecordsBuilder<Hit> builder;
    Arena batch;
    for (int i = 0; i < 1000; ++i) builder.append({batch.copy("path " + std::to_string(i)), i});
    hits = builder.finish();
    EXPECT_EQ(builder.size(), 0u);
  }
  Records<Hit> copy = hits;
  hits = {};
  Arena::set_poison_released(false);
  ASSERT_EQ(copy.size(), 1000u);
  for (std::size_t i = 0; i < copy.size(); ++i) {
    ASSERT_EQ(copy[i], Hit("path " + std::to_string(i), static_cast<long>(i)));
  }
  EXPECT_EQ(&copy.front(), &*copy.begin());
  EXPECT_EQ(copy.back().second, 999);
}

TEST(Records, CompareWithWhatTheirRecordsCompareWith) {
  RecordsBuilder<std::string_view> builder;
  builder.append(std::array<std::string_view, 2>{"a", "b"});
  const Records<std::string_view> records = builder.finish();
  EXPECT_EQ(records, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(records, (std::vector<std::string_view>{"a", "b"}));
  EXPECT_EQ((std::vector<std::string>{"a", "b"}), records);
  EXPECT_EQ(records, (std::initializer_list<std::string_view>{"a", "b"}));
  EXPECT_EQ(records, records);
  EXPECT_NE(records, (std::vector<std::string>{"a"}));
  EXPECT_NE(records, (std::vector<std::string>{"a", "c"}));
  EXPECT_NE(records, Records<std::string_view>());
  EXPECT_EQ(records.to_vector(), (std::vector<std::string_view>{"a", "b"}));
}

TEST(Records, MayBeEmpty) {
  const Records<int> records;
  EXPECT_TRUE(records.empty());
  EXPECT_EQ(records.begin(), records.end());
  EXPECT_EQ(records, RecordsBuilder<int>().finish());
  EXPECT_EQ(records, std::vector<int>());
}

TEST(Records, OfBoolWork) {
  RecordsBuilder<bool> builder;
  builder.append(true);
  builder.append(false);
  EXPECT_EQ(builder.finish(), (std::vector<bool>{true, false}));
}

TEST(Records, ArePrintedByGoogleTest) {
  RecordsBuilder<std::string_view> builder;
  builder.append("a");
  builder.append("b");
  EXPECT_EQ(testing::PrintToString(builder.finish()), R"({ "a", "b" })");
}

TEST(Records, KeepOwnersOfBytesTheyOnlyPointTo) {
  auto owner = std::make_shared<std::string>("text");
  std::weak_ptr<std::string> watch = owner;
  RecordsBuilder<std::string_view> builder;
  builder.append_kept(*owner);
  builder.keep(std::move(owner));
  Records<std::string_view> records = builder.finish();
  EXPECT_EQ(records.front(), "text");
  records = {};
  EXPECT_TRUE(watch.expired());
}

TEST(Records, AreReadFromBytes) {
  Encoder out;
  encode(Hit("a", 1), out);
  encode(Hit("b", 2), out);
  RecordsBuilder<Hit> builder;
  {
    const std::string bytes = out.take();
    builder.append_decoded(bytes, 2);
    EXPECT_THROW(builder.append_decoded(bytes, 1), Error);
    EXPECT_THROW(builder.append_decoded(bytes, 3), Error);
  }
  EXPECT_EQ(builder.finish()[1], Hit("b", 2));
}

}  // namespace
}  // namespace sluice
