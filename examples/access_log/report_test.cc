// Unit test (GoogleTest) of report.h.
#include "examples/access_log/report.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace access_log {
namespace {

TEST(ReportTest, ObjectHasItsKeysInOrderAndNoSpaces) {
  const Report report{.lines = 6,
                      .malformed = 1,
                      .bytes = 18446744073709551615U,
                      .status = {{404, 2}, {200, 3}},
                      .top_paths = {{"/a \"b\"", 3}, {"-", 2}},
                      .top_clients = {{"::1", 5}}};
  EXPECT_EQ(to_json(report), R"x({"lines":6,"malformed":1,"bytes":18446744073709551615,"status":{"200":3,"404":2},)x"
                             R"x("top_paths":[["/a \"b\"",3],["-",2]],"top_clients":[["::1",5]]})x");
}

TEST(ReportTest, EmptyLogHasEmptyLists) {
  EXPECT_EQ(to_json({}), R"({"lines":0,"malformed":0,"bytes":0,"status":{},"top_paths":[],"top_clients":[]})");
}

TEST(ReportTest, EqualCountsAreOrderedByUnsignedBytes) {
  const std::vector<Ranked> all = {{"\xff", 2}, {"b", 2}, {"/z", 9}, {"a", 2}, {"", 2}, {"B", 2}, {"ab", 1}};
  EXPECT_EQ(top(all, 5), (std::vector<Ranked>{{"/z", 9}, {"", 2}, {"B", 2}, {"a", 2}, {"b", 2}}));
  EXPECT_EQ(top(all, 100).size(), 7U);
  EXPECT_EQ(top(all, 100)[5].name, "\xff");
  EXPECT_TRUE(top(all, 0).empty());
}

TEST(ReportTest, ControlCharactersQuotesAndBackslashesAreEscaped) {
  EXPECT_EQ(json_string(std::string("\0\t\n\x1b\x1f \x7f", 7)), R"("\u0000\u0009\u000a\u001b\u001f \u007f")");
  EXPECT_EQ(json_string(R"(\x22 "\)"), R"("\\x22 \"\\")");
  EXPECT_EQ(json_string("\xc2\x80\xc2\x9b\xc2\x9f\xc2\xa0"), "\"\\u0080\\u009b\\u009f\xc2\xa0\"");
}

TEST(ReportTest, EachByteOutsideWellFormedUtf8BecomesOneReplacement) {
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(json_string("gr\xc3\xbc\xe6\x97\xa5\xf0\x9f\x98\x80"), "\"gr\xc3\xbc\xe6\x97\xa5\xf0\x9f\x98\x80\"");
  EXPECT_EQ(json_string("a\xff\xc3"), "\"a" + r + r + "\"");                      // no such byte; cut at the end
  EXPECT_EQ(json_string("\xc0\xaf\xe0\x80\xaf"), '"' + r + r + r + r + r + '"');  // long forms
  EXPECT_EQ(json_string("\xed\xa0\x80z"), '"' + r + r + r + "z\"");               // a surrogate
  EXPECT_EQ(json_string("\xf4\x90\x80\x80"), '"' + r + r + r + r + '"');          // beyond U+10FFFF
  EXPECT_EQ(json_string("\xe6\x97\""), '"' + r + r + "\\\"\"");  // the quote after a cut sequence stays
  EXPECT_EQ(json_string("\xf4\x8f\xbf\xbf\xed\x9f\xbf"), "\"\xf4\x8f\xbf\xbf\xed\x9f\xbf\"");
}

}  // namespace
}  // namespace access_log
