// Unit test (GoogleTest) of log_line.h, and of the fixture nasty.log with its sidecar nasty.expected: line n of the
// sidecar is what must become of line n of the log, "ok<TAB>target|status|bytes|client" or "malformed<TAB>field".
//
// CMake: every *_test.cc of this folder is GoogleTest without its own main. By hand, from the root of the repository:
//     g++ -std=c++20 -I. examples/access_log/log_line{,_test}.cc -lgtest -lgtest_main -pthread
#include "examples/access_log/log_line.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace access_log {
namespace {

static_assert(std::is_aggregate_v<LogLine>, "the engine finds the views of a record field by field");

constexpr std::string_view combined =
    R"(83.149.9.216 - frank [17/May/2015:10:05:03 +0000] "GET /a/b.png?x=1 HTTP/1.1" 200 203023 )"
    R"x("http://semicomplete.com/" "Mozilla/5.0 (X11; Linux)")x";

std::string with_request(std::string_view request) {
  return R"(1.2.3.4 - - [t] ")" + std::string(request) + R"(" 200 5)";
}

std::vector<std::string> lines_of(std::string_view name) {
  std::ifstream file(std::filesystem::path(__FILE__).parent_path() / name, std::ios::binary);
  EXPECT_TRUE(file) << name;
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

std::string outcome(std::string_view text) {
  ParseError why = ParseError::none;
  const std::optional<LogLine> line = parse(text, &why);
  if (!line) return "malformed\t" + std::string(name_of(why));
  return "ok\t" + std::string(line->target) + "|" + std::to_string(line->status) + "|" + std::to_string(line->bytes) +
         "|" + std::string(line->client);
}

TEST(LogLineTest, CombinedLineGivesAllFields) {
  ParseError why = ParseError::agent;
  const auto line = parse(combined, &why);
  ASSERT_TRUE(line);
  EXPECT_EQ(why, ParseError::none);
  EXPECT_EQ(line->client, "83.149.9.216");
  EXPECT_EQ(line->identity, "-");
  EXPECT_EQ(line->user, "frank");
  EXPECT_EQ(line->time, "17/May/2015:10:05:03 +0000");
  EXPECT_EQ(line->request, "GET /a/b.png?x=1 HTTP/1.1");
  EXPECT_EQ(line->method, "GET");
  EXPECT_EQ(line->target, "/a/b.png?x=1");
  EXPECT_EQ(line->protocol, "HTTP/1.1");
  EXPECT_EQ(line->referrer, "http://semicomplete.com/");
  EXPECT_EQ(line->agent, "Mozilla/5.0 (X11; Linux)");
  EXPECT_EQ(line->status, 200);
  EXPECT_EQ(line->bytes, 203023U);
  EXPECT_TRUE(line->has_bytes);
  EXPECT_TRUE(line->combined);
}

TEST(LogLineTest, CommonLineHasNoReferrerAndNoAgent) {
  const auto line = parse(R"(::1 - - [t] "GET / HTTP/1.0" 304 -)");
  ASSERT_TRUE(line);
  EXPECT_FALSE(line->combined);
  EXPECT_FALSE(line->has_bytes);
  EXPECT_EQ(line->bytes, 0U);
  EXPECT_TRUE(line->referrer.empty());
  EXPECT_TRUE(line->agent.empty());
}

TEST(LogLineTest, RequestIsSplitAtItsFirstAndLastSpace) {
  struct Case {
    std::string_view request, method, target, protocol;
  };
  const std::vector<Case> cases = {
      {"GET / HTTP/1.1", "GET", "/", "HTTP/1.1"},
      {"GET /a b  c HTTP/1.1", "GET", "/a b  c", "HTTP/1.1"},
      {"GET /old", "GET", "/old", ""},
      {"GET /a b", "GET", "/a b", ""},
      {"GET HTTP/1.1", "GET", "HTTP/1.1", ""},
      {"GET  HTTP/1.1", "GET", "", "HTTP/1.1"},
      {"GET ", "GET", "", ""},
      {" ", "", "", ""},
      {" / HTTP/1.1", "", "/", "HTTP/1.1"},
      {"GET / HTTP/1.1 ", "GET", "/ HTTP/1.1 ", ""},
      {"GET / http/1.1", "GET", "/ http/1.1", ""},
      {"-", "", "-", ""},
      {"", "", "", ""},
      {R"(\x16\x03\x01)", "", R"(\x16\x03\x01)", ""},
      {R"(GET /\"q\\ HTTP/1.1)", "GET", R"(/\"q\\)", "HTTP/1.1"},
      {"OPTIONS * RTSP/1.0", "OPTIONS", "* RTSP/1.0", ""},
  };
  for (const Case& c : cases) {
    const std::string text = with_request(c.request);
    const auto line = parse(text);
    ASSERT_TRUE(line) << text;
    EXPECT_EQ(line->request, c.request);
    EXPECT_EQ(line->method, c.method) << text;
    EXPECT_EQ(line->target, c.target) << text;
    EXPECT_EQ(line->protocol, c.protocol) << text;
  }
}

TEST(LogLineTest, EveryPrefixOfALineNamesTheFieldWhereItWasCut) {
  // A prefix is a whole line only if it ends with the bytes (any of their digits) or with the agent's quote.
  const std::size_t common_end = combined.find(" \"http");
  const std::size_t first_digit = common_end - 5;
  ParseError last = ParseError::client;
  for (std::size_t size = 0; size <= combined.size(); ++size) {
    ParseError why = ParseError::none;
    const bool whole = parse(combined.substr(0, size), &why).has_value();
    EXPECT_EQ(whole, (size >= first_digit && size <= common_end) || size == combined.size()) << size;
    EXPECT_EQ(whole, why == ParseError::none);
    if (whole) continue;
    EXPECT_GE(why, last) << size;
    last = why;
  }
  EXPECT_EQ(last, ParseError::agent);
}

TEST(LogLineTest, BytesHoldSixtyFourBitsAndNoMore) {
  const std::string head = R"(h - - [t] "GET /" 200 )";
  const std::string most = head + "18446744073709551615";
  ASSERT_TRUE(parse(most));
  EXPECT_EQ(parse(most)->bytes, 18446744073709551615U);
  EXPECT_FALSE(parse(head + "18446744073709551616"));
  EXPECT_FALSE(parse(head + "99999999999999999999999999"));
  EXPECT_TRUE(parse(head + "00000000000000000000000007"));
  for (const std::string bad : {"+1", "-1", "1k", "0x1", "1.5", "--", ""}) EXPECT_FALSE(parse(head + bad)) << bad;
}

TEST(LogLineTest, NullViewIsAnEmptyLine) {
  EXPECT_EQ(outcome(std::string_view()), "malformed\tclient");
  EXPECT_EQ(outcome("\r"), "malformed\tclient");
}

TEST(LogLineTest, NastyLinesComeOutAsExpected) {
  const std::vector<std::string> lines = lines_of("nasty.log");
  const std::vector<std::string> expected = lines_of("nasty.expected");
  ASSERT_GE(lines.size(), 60U);
  ASSERT_EQ(lines.size(), expected.size());
  for (std::size_t i = 0; i < lines.size(); ++i) EXPECT_EQ(outcome(lines[i]), expected[i]) << "line " << i + 1;
}

}  // namespace
}  // namespace access_log
