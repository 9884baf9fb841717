// Unit test (GoogleTest) of terminal.h.
#include "examples/access_log/terminal.h"

#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace access_log {
namespace {

using namespace std::chrono_literals;

Summary usual() {
  Summary s;
  s.source = "directory spool";
  s.uptime = 93'784'321ms;
  s.batch = 754;
  s.batch_interval = 1s;
  s.batch_time = 12'345us;
  s.scheduling_delay = 123us;
  s.total_delay = 12'468us;
  s.lines_per_second = 12'345.4;
  s.bytes_per_second = 2.93e6;
  s.rate_history = {0, 1000, 2000, 3000, 4000, 5000, 6000, 7000};
  s.malformed = 12;
  s.malformed_samples = {{"status", "not shown: only the last three are"},
                         {"client", ""},
                         {"identity", "\x1b[2Jowned\x07"},
                         {"request", "10.0.0.1 - - [t] \"GET /" + std::string(100, 'x')}};
  s.window_length = 30s;
  s.window = {.lines = 1000, .bytes = 87'900'000, .status_class = {0, 0, 900, 69, 30, 1}};
  s.top_paths = {{"/", 320}, {"/a/path/that/is/much/too/long/for/its/place/in/the/list.html", 210}, {"/c", 9}};
  s.top_clients = {{"2001:db8::1", 120}, {"10.0.0.1", 80}};
  s.totals = {.lines = 9'300'123, .bytes = 2'300'000'000, .status_class = {0, 0, 9'200'000, 0, 100'000, 123}};
  return s;
}

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    EXPECT_NE(end, text.npos) << "a line without its end";
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end, text.size() - 1) + 1);
  }
  return lines;
}

TEST(TerminalTest, FrameOfEightyColumns) {
  EXPECT_EQ(render(usual(), {.is_terminal = true, .columns = 80, .rows = 30}),
            R"(access_log  directory spool                                      up 1d 02:03:04
rate       12,345 lines/s   2.9 MB/s      _.:-=+*#
batch      #754 every 1 s   time 12.3 ms   scheduling 0.1 ms   total 12.5 ms
totals     9,300,123 hits   2.3 GB   errors 1.08 %   5xx 0.00 %
malformed  12 lines   0.000 %
  client
  identity \x1b[2Jowned\x07
  request  10.0.0.1 - - [t] "GET /xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..

window     last 30 s   1,000 hits   87.9 MB   errors 3.10 %   5xx 0.10 %
status     2xx 90.0 %   3xx 6.9 %   4xx 3.0 %   5xx 0.1 %
           22222222222222222222222222222222222222222222222222222222222223333445

top paths                                      top clients
   320  /                                         120  2001:db8::1
   210  /a/path/that/is/much/too/long/for/..       80  10.0.0.1
     9  /c
)");
}

TEST(TerminalTest, NarrowAndLowScreenGetsShorterLists) {
  EXPECT_EQ(render(usual(), {.is_terminal = true, .columns = 50, .rows = 24}),
            R"(access_log  directory spool        up 1d 02:03:04
rate       12,345 lines/s   2.9 MB/s
batch      #754 every 1 s   time 12.3 ms
           scheduling 0.1 ms   total 12.5 ms
totals     9,300,123 hits   2.3 GB
           errors 1.08 %   5xx 0.00 %
malformed  12 lines   0.000 %
  client
  identity \x1b[2Jowned\x07
  request  10.0.0.1 - - [t] "GET /xxxxxxxxxxxxx..

window     last 30 s   1,000 hits   87.9 MB
           errors 3.10 %   5xx 0.10 %
status     2xx 90.0 %   3xx 6.9 %   4xx 3.0 %
           5xx 0.1 %
           22222222222222222222222222222222223345

top paths
   320  /
   210  /a/path/that/is/much/too/long/for/its/p..
top clients
   120  2001:db8::1
    80  10.0.0.1
)");
}

TEST(TerminalTest, EmptySummaryHasItsFrameToo) {
  EXPECT_EQ(render({}, {.is_terminal = true, .columns = 60, .rows = 24}),
            R"(access_log                                      up 00:00:00
rate       0 lines/s   0 B/s
batch      #0 every 0 s   time 0.0 ms   scheduling 0.0 ms
           total 0.0 ms
totals     0 hits   0 B   errors 0.00 %   5xx 0.00 %
malformed  0 lines   0.000 %

window     last 0 s   0 hits   0 B   errors 0.00 %
           5xx 0.00 %
status     2xx 0.0 %   3xx 0.0 %   4xx 0.0 %   5xx 0.0 %


top paths
top clients
)");
}

TEST(TerminalTest, WithoutTerminalOneLineWithoutEscapes) {
  EXPECT_EQ(render(usual(), {.is_terminal = false, .colours = true, .utf8 = true}),
            "up_s=93784 batch=754 lines_per_s=12345 bytes_per_s=2930000 batch_ms=12.3 scheduling_ms=0.1 total_ms=12.5 "
            "malformed=12 window_ms=30000 hits=1000 bytes=87900000 errors=31 total_hits=9300123 "
            "total_bytes=2300000000 top_path=\"/\" top_client=\"2001:db8::1\"\n");
}

TEST(TerminalTest, ColoursAndBlocksOnlyWhenAskedFor) {
  const Screen both{.is_terminal = true, .columns = 80, .rows = 30, .colours = true, .utf8 = true};
  const std::string text = render(usual(), both);
  EXPECT_NE(text.find("\x1b[1maccess_log\x1b[0m"), text.npos);
  EXPECT_NE(text.find("\x1b[33merrors 3.10 %\x1b[0m"), text.npos);
  EXPECT_NE(text.find("▂"), text.npos);
  EXPECT_NE(text.find("█\x1b[0m"), text.npos);
  const std::string ascii = render(usual(), {.is_terminal = true, .columns = 80, .rows = 30, .colours = true});
  EXPECT_EQ(ascii.find("█"), ascii.npos);
}

TEST(TerminalTest, BatchThatTakesLongerThanItsIntervalIsRed) {
  Summary late = usual();
  late.batch_time = 1'200'000us;
  late.total_delay = 12'500'000us;
  const std::string text = render(late, {.is_terminal = true, .columns = 100, .rows = 30, .colours = true});
  EXPECT_NE(text.find("\x1b[31mtime 1200.0 ms\x1b[0m"), text.npos);
  EXPECT_NE(text.find("\x1b[31mtotal 12.5 s\x1b[0m"), text.npos);
  EXPECT_EQ(text.find("\x1b[31mscheduling"), text.npos);
}

// The log is written by strangers, and numbers may be anything: whatever is in the summary, what reaches the terminal
// is printable ASCII in lines that fit.
TEST(TerminalTest, NothingHostileAndNothingTooWideReachesTheTerminal) {
  std::string all_bytes;
  for (int byte = 0; byte < 256; ++byte) all_bytes += static_cast<char>(byte);
  Summary s = usual();
  s.source = all_bytes;
  s.malformed_samples = {{all_bytes, all_bytes}, {"", std::string(300, '\x9b')}, {"user", std::string(1000, '\r')}};
  s.top_paths.assign(12, {all_bytes, std::numeric_limits<std::uint64_t>::max()});
  s.top_clients.assign(20, {"\xe2\x80\xae" + all_bytes, 1});
  s.totals.status_class.fill(std::numeric_limits<std::uint64_t>::max());
  s.window.status_class.fill(7);
  s.lines_per_second = std::numeric_limits<double>::quiet_NaN();
  s.bytes_per_second = std::numeric_limits<double>::infinity();
  s.rate_history.assign(500, -1);
  s.rate_history.push_back(std::numeric_limits<double>::infinity());
  s.uptime = -5s;
  for (std::size_t columns = 2; columns < 220; ++columns) {
    for (const std::size_t rows : {2U, 5U, 12U, 24U, 60U}) {
      const auto lines = lines_of(render(s, {.is_terminal = true, .columns = columns, .rows = rows}));
      EXPECT_LE(lines.size(), rows - 1);
      for (const std::string& line : lines) {
        EXPECT_LE(line.size(), columns - 1);
        EXPECT_EQ(printable(line).size(), line.size()) << line;
      }
    }
  }
  const auto plain = lines_of(render(s, {}));
  ASSERT_EQ(plain.size(), 1U);
  EXPECT_EQ(printable(plain[0]), plain[0]);
  for (const Screen& odd : {Screen{.is_terminal = true, .columns = 0, .rows = 0}, Screen{true, 1, 1, true, true}}) {
    Painter painter;
    EXPECT_FALSE(painter.paint(render(s, odd), odd).empty());
    EXPECT_FALSE(painter.paint(render(s, odd), odd).empty());
  }
}

TEST(TerminalTest, PrintableKeepsAsciiAndNamesAllOtherBytes) {
  EXPECT_EQ(printable("GET /~a?b=\"c\\d\""), "GET /~a?b=\"c\\d\"");
  EXPECT_EQ(printable(std::string("\0\t\x1b\x7f\x80\xff\xc3\xa9", 8)), "\\x00\\x09\\x1b\\x7f\\x80\\xff\\xc3\\xa9");
}

TEST(TerminalTest, EachFrameIsDrawnOverTheOneBefore) {
  const Screen screen{.is_terminal = true, .columns = 10, .rows = 24};
  Painter painter;
  EXPECT_EQ(painter.paint("one\ntwo\n", screen), "\x1b[?25l\rone\x1b[K\ntwo\x1b[K\n\x1b[J\x1b[?25h");
  EXPECT_EQ(painter.paint("3\n", screen), "\x1b[?25l\r\x1b[2A3\x1b[K\n\x1b[J\x1b[?25h");
  EXPECT_EQ(painter.paint("4\n", screen), "\x1b[?25l\r\x1b[1A4\x1b[K\n\x1b[J\x1b[?25h");
}

TEST(TerminalTest, AFrameAfterAChangeOfSizeCoversTheWholeScreen) {
  for (const Screen& other :
       {Screen{.is_terminal = true, .columns = 11, .rows = 24}, Screen{.is_terminal = true, .columns = 4, .rows = 24},
        Screen{.is_terminal = true, .columns = 10, .rows = 40},
        Screen{.is_terminal = true, .columns = 10, .rows = 2}}) {
    Painter painter;
    // The first frame stands below what was printed before, whatever its size.
    EXPECT_EQ(painter.paint("1\n2\n", {.is_terminal = true, .columns = 10, .rows = 24}),
              "\x1b[?25l\r1\x1b[K\n2\x1b[K\n\x1b[J\x1b[?25h");
    // From the top, each line cleared to its end, then the rest of the screen.
    EXPECT_EQ(painter.paint("3\n4\n", other), "\x1b[?25l\r\x1b[H3\x1b[K\n4\x1b[K\n\x1b[J\x1b[?25h");
    // Then in place again.
    const std::string up = other.rows == 2 ? "1" : "2";
    EXPECT_EQ(painter.paint("5\n", other), "\x1b[?25l\r\x1b[" + up + "A5\x1b[K\n\x1b[J\x1b[?25h");
  }
}

TEST(TerminalTest, WhatIsNoTerminalIsPaintedAsItIs) {
  Painter painter;
  EXPECT_EQ(painter.paint("a=1\n", {}), "a=1\n");
  EXPECT_EQ(painter.paint("a=2\n", {}), "a=2\n");
}

}  // namespace
}  // namespace access_log
