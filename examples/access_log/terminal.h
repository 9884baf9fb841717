// A live summary of a log in the terminal.
//
//     Terminal terminal(STDOUT_FILENO);
//     terminal.draw(summary);               // once a batch
//
// On a terminal each frame is drawn over the one before, in place (what was printed earlier stays above it; the
// alternate screen is not used), by one write. When the terminal's size has changed, the whole screen is drawn anew
// from its top. Elsewhere (a pipe, a file) each frame is one plain line of key=value pairs.
//
// All text from the log goes through `printable`: nothing that a stranger writes into a request reaches the terminal as
// anything but printable ASCII.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "examples/access_log/report.h"

namespace access_log {

/// What a number of well-formed lines come to.
struct Tally {
  std::uint64_t lines = 0;
  std::uint64_t bytes = 0;
  /// Lines by the first digit of their status; [0] is unused.
  std::array<std::uint64_t, 10> status_class{};
};

/// A line that could not be parsed, and why.
struct MalformedSample {
  std::string field;  // name_of(ParseError)
  std::string line;
};

/// What is shown. Plain values: whoever fills it reads the clocks and counters.
struct Summary {
  std::string source;  // "directory /var/log/spool", "port 7777"
  std::chrono::milliseconds uptime{0};

  std::uint64_t batch = 0;  // number of the newest batch that is done
  std::chrono::milliseconds batch_interval{0};
  std::chrono::microseconds batch_time{0};        // its processing time
  std::chrono::microseconds scheduling_delay{0};  // how long it waited before
  std::chrono::microseconds total_delay{0};

  double lines_per_second = 0;
  double bytes_per_second = 0;       // of log text read
  std::vector<double> rate_history;  // lines per second, oldest first; as many as fit are drawn

  std::uint64_t malformed = 0;                     // since the start
  std::vector<MalformedSample> malformed_samples;  // the newest last; the last three are shown

  std::chrono::milliseconds window_length{0};
  Tally window;
  std::vector<Ranked> top_paths;  // of the window, in order
  std::vector<Ranked> top_clients;

  Tally totals;  // since the start
};

/// Where it is shown.
struct Screen {
  /// False: one plain line a frame, and nothing below matters.
  bool is_terminal = false;
  std::size_t columns = 80;
  std::size_t rows = 24;
  /// Colours (SGR escapes); without them the same text.
  bool colours = false;
  /// Block characters for bars and the rate; else ASCII.
  bool utf8 = false;
};

/// The screen behind a file descriptor: its size, colours unless NO_COLOR is set and not empty (no-color.org) or TERM
/// is "dumb", and utf8 if the locale's variables say so. A terminal that is "dumb" cannot move its cursor: plain lines.
Screen screen_of(int file_descriptor);

/// `text` in printable ASCII: bytes outside 0x20 to 0x7E as \xHH. Backslashes stay single, as servers write \xHH
/// themselves; what is shown may so stand for two texts, but no text can do harm.
std::string printable(std::string_view text);

/// One frame as text; each line ends in "\n". On a terminal: at most `rows - 1` lines, none wider than `columns - 1`
/// (the last column and row stay free, so that nothing wraps or scrolls), no escapes but colours; lists are shortened
/// to fit. Pure: depends on the arguments only.
std::string render(const Summary& summary, const Screen& screen);

/// Puts rendered frames over one another. Pure too: gives the bytes to write.
class Painter {
 public:
  /// The bytes that replace the frame before by `frame`, which `render` made for `screen`.
  std::string paint(std::string_view frame, const Screen& screen);

 private:
  // Of the frame that stands on the terminal.
  std::size_t lines_ = 0;
  std::size_t columns_ = 0;
  std::size_t rows_ = 0;
};

/// Draws on a file descriptor, which it does not own. Threads: one at a time.
class Terminal {
 public:
  explicit Terminal(int file_descriptor) : file_descriptor_(file_descriptor) {}

  /// Draws a frame for the screen as it is now. False if the frame could not be written (closed pipe, full disk).
  bool draw(const Summary& summary);

 private:
  int file_descriptor_;
  Painter painter_;
};

}  // namespace access_log
