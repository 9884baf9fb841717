// Unit test (GoogleTest) of log_generator.h.
#include "examples/access_log/log_generator.h"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>

#include "examples/access_log/log_line.h"

namespace access_log {
namespace {

using namespace std::chrono_literals;

constexpr std::chrono::sys_seconds some_time =
    std::chrono::sys_days{std::chrono::year{2015} / std::chrono::May / 7} + 10h + 5min + 3s;

TEST(LogGeneratorTest, SameOptionsGiveSameLines) {
  LogGenerator a({.seed = 3});
  LogGenerator b({.seed = 3});
  LogGenerator c({.seed = 4});
  std::string of_a, of_b, of_c;
  for (int i = 0; i < 1000; ++i) {
    of_a += a.next_line() + '\n';
    b.append_line(of_b);
    of_b += '\n';
    c.append_line(of_c);
    of_c += '\n';
  }
  EXPECT_EQ(of_a, of_b);
  EXPECT_NE(of_a, of_c);
}

// A golden line: a change here changes the figures of every demonstration that gives its seed.
TEST(LogGeneratorTest, FirstLineOfSeedOneStaysTheSame) {
  LogGenerator log;
  log.set_time(some_time);
  EXPECT_EQ(log.next_line(), R"x(189.178.24.148 - - [07/May/2015:10:05:03 +0000] "GET /style.css HTTP/1.1" 200 251 )x"
                             R"x("https://www.example.com/blog/books/photos-17.html" )x"
                             R"x("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)")x");
}

TEST(LogGeneratorTest, MalformedLinesAreThoseItCounts) {
  for (const bool combined : {true, false}) {
    LogGenerator log({.seed = 5, .malformed_per_million = 50'000, .combined = combined});
    std::set<ParseError> kinds;
    for (int i = 0; i < 20'000; ++i) {
      const std::uint64_t before = log.malformed_count();
      const std::string text = log.next_line();
      ParseError why = ParseError::none;
      const auto line = parse(text, &why);
      ASSERT_EQ(line.has_value(), log.malformed_count() == before) << text;
      EXPECT_EQ(text.find_first_of("\r\n"), std::string::npos);
      if (line) {
        EXPECT_EQ(line->combined, combined);
      } else {
        kinds.insert(why);
      }
    }
    EXPECT_EQ(log.line_count(), 20'000U);
    EXPECT_NEAR(static_cast<double>(log.malformed_count()), 1000.0, 150.0);
    EXPECT_GE(kinds.size(), 4U);
  }
}

TEST(LogGeneratorTest, TimeStampIsTheTimeSet) {
  LogGenerator log({.malformed_per_million = 0});
  const std::string first = log.next_line();
  EXPECT_EQ(parse(first)->time, "01/Jan/1970:00:00:00 +0000");
  log.set_time(some_time);
  const std::string second = log.next_line();
  EXPECT_EQ(parse(second)->time, "07/May/2015:10:05:03 +0000");
}

TEST(LogGeneratorTest, PathsFollowZipfAndStatusesAreMostlyGood) {
  LogGenerator log({.path_count = 100, .malformed_per_million = 0});
  std::map<std::string, int, std::less<>> paths, clients;
  std::map<int, int> statuses;
  for (int i = 0; i < 50'000; ++i) {
    const std::string text = log.next_line();
    const auto line = parse(text);
    ++paths[std::string(line->target)];
    ++clients[std::string(line->client)];
    ++statuses[line->status];
  }
  // 100 ranks: the harmonic sum is 5.19, so the first has 9,640 of 50,000 and the second half of that.
  EXPECT_NEAR(paths["/"], 9640, 500);
  EXPECT_NEAR(paths["/favicon.ico"], 4820, 350);
  EXPECT_EQ(paths.size(), 101U);  // and "-"
  EXPECT_GT(clients.size(), 2000U);
  EXPECT_NEAR(statuses[200], 45'200, 500);
  EXPECT_GT(statuses[503], 0);
}

TEST(LogGeneratorTest, NoPathsOrNoClientsAreRefused) {
  EXPECT_THROW(LogGenerator({.path_count = 0}), std::invalid_argument);
  EXPECT_THROW(LogGenerator({.client_count = 0}), std::invalid_argument);
}

}  // namespace
}  // namespace access_log
