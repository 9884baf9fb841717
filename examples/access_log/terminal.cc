#include "examples/access_log/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <span>
#include <utility>

namespace access_log {
namespace {

enum class Style : std::uint8_t { plain, bold, dim, red, green, yellow, blue, cyan };

std::string_view sgr(Style style) {
  static constexpr std::array<std::string_view, 8> codes = {"",         "\x1b[1m",  "\x1b[2m",  "\x1b[31m",
                                                            "\x1b[32m", "\x1b[33m", "\x1b[34m", "\x1b[36m"};
  return codes.at(static_cast<std::size_t>(style));
}

// -- Numbers. std::to_chars and not printf: the same digits in every locale.

std::string fixed(double value, int digits) {
  if (!std::isfinite(value)) return "?";
  std::array<char, 64> text{};
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), std::clamp(value, -1e18, 1e18),
                                          std::chars_format::fixed, digits);
  return error == std::errc{} ? std::string(text.data(), end) : "?";
}

std::string grouped(std::uint64_t value) {
  std::string text = std::to_string(value);
  for (std::size_t at = text.size(); at > 3; at -= 3) text.insert(at - 3, 1, ',');
  return text;
}

std::string grouped_rate(double value) {
  return std::isfinite(value) && value >= 0 ? grouped(static_cast<std::uint64_t>(std::min(value, 1e18) + 0.5)) : "?";
}

// In decimal units, as rates are: 1 kB = 1,000 B.
std::string bytes_text(double bytes) {
  static constexpr std::array<std::string_view, 7> units = {" B", " kB", " MB", " GB", " TB", " PB", " EB"};
  std::size_t unit = 0;
  // 999.95 and not 1,000: it would be rounded up to "1000.0".
  for (; bytes >= (unit == 0 ? 1000 : 999.95) && unit + 1 < units.size(); ++unit) bytes /= 1000;
  return fixed(bytes, unit == 0 ? 0 : 1) + std::string(units.at(unit));
}

std::string percent(std::uint64_t part, std::uint64_t whole, int digits) {
  return fixed(whole == 0 ? 0 : 100 * static_cast<double>(part) / static_cast<double>(whole), digits) + " %";
}

std::string delay_text(std::chrono::microseconds delay) {
  const double ms = static_cast<double>(delay.count()) / 1000;
  return ms < 9999.5 ? fixed(ms, 1) + " ms" : fixed(ms / 1000, 1) + " s";
}

std::string length_text(std::chrono::milliseconds length) {
  const auto ms = length.count();
  return ms % 1000 == 0 ? std::to_string(ms / 1000) + " s" : std::to_string(ms) + " ms";
}

std::string uptime_text(std::chrono::milliseconds uptime) {
  const auto seconds = std::max<std::int64_t>(0, uptime.count() / 1000);
  const auto two = [](std::int64_t value) { return (value < 10 ? "0" : "") + std::to_string(value); };
  const std::string days = seconds < 86400 ? "" : std::to_string(seconds / 86400) + "d ";
  return days + two(seconds / 3600 % 24) + ':' + two(seconds / 60 % 60) + ':' + two(seconds % 60);
}

// 4xx and 5xx.
std::uint64_t errors(const Tally& tally) { return tally.status_class[4] + tally.status_class[5]; }

Style class_style(std::size_t status_class) {
  static constexpr std::array<Style, 10> styles = {Style::dim, Style::blue, Style::green, Style::cyan, Style::yellow,
                                                   Style::red, Style::dim,  Style::dim,   Style::dim,  Style::dim};
  return styles.at(status_class);
}

// -- Lines of cells.

// A line that never grows wider than its limit. Text is ASCII or glyphs of one column: it is cut without being
// measured.
class Line {
 public:
  Line(std::size_t width_max, bool colours) : width_max_(width_max), colours_(colours) {}

  std::size_t width() const { return width_; }
  std::size_t room() const { return width_max_ - width_; }

  // `ascii` is printable ASCII.
  Line& put(std::string_view ascii, Style style = Style::plain) {
    const std::string_view shown = ascii.substr(0, room());
    if (shown.empty()) return *this;
    styled(shown, style);
    width_ += shown.size();
    return *this;
  }

  // Too long a text ends in "..", to show that there is more.
  Line& put_cut(std::string_view ascii, std::size_t width, Style style = Style::plain) {
    width = std::min(width, room());
    if (ascii.size() <= width || width < 4) return put(ascii.substr(0, width), style);
    return put(std::string(ascii.substr(0, width - 2)) + "..", style);
  }

  Line& put_right(std::string_view ascii, std::size_t width, Style style = Style::plain) {
    if (ascii.size() < width) pad_to(width_ + width - ascii.size());
    return put(ascii, style);
  }

  // `count` times a glyph that takes one column, whatever its bytes.
  Line& put_glyph(std::string_view glyph, std::size_t count, Style style = Style::plain) {
    count = std::min(count, room());
    std::string shown;
    for (std::size_t i = 0; i < count; ++i) shown += glyph;
    if (count != 0) styled(shown, style);
    width_ += count;
    return *this;
  }

  Line& pad_to(std::size_t column) {
    while (width_ < std::min(column, width_max_)) {
      text_ += ' ';
      ++width_;
    }
    return *this;
  }

  std::string str() const {
    std::string text = text_;
    while (text.ends_with(' ')) text.pop_back();
    return text + '\n';
  }

 private:
  void styled(std::string_view shown, Style style) {
    const std::string_view code = colours_ ? sgr(style) : "";
    text_ += code;
    text_ += shown;
    if (!code.empty()) text_ += "\x1b[0m";
  }

  std::string text_;
  std::size_t width_ = 0;
  std::size_t width_max_;
  bool colours_;
};

// A piece of a row: text that is not torn apart.
struct Piece {
  std::string text;
  Style style = Style::plain;
};

constexpr std::size_t label_columns = 11;
constexpr std::size_t gap_columns = 3;
constexpr std::size_t sparkline_columns_min = 8;
constexpr std::size_t sparkline_columns_max = 60;
constexpr std::size_t list_length_max = 10;
constexpr std::size_t sample_count_max = 3;
constexpr std::size_t side_by_side_columns = 72;

class Frame {
 public:
  Frame(const Summary& summary, const Screen& screen)
      : summary_(summary),
        screen_(screen),
        columns_(std::clamp<std::size_t>(screen.columns, 2, 200) - 1),
        rows_(std::max<std::size_t>(screen.rows, 2) - 1) {}

  std::string text() {
    title();
    rate();
    batch();
    totals();
    malformed();
    window();
    status_bar();
    lists();
    // What does not fit falls off at the end.
    return std::accumulate(lines_.begin(), lines_.begin() + static_cast<std::ptrdiff_t>(std::min(lines_.size(), rows_)),
                           std::string());
  }

 private:
  Line line() const { return {columns_, screen_.colours}; }
  void add(const Line& line) { lines_.push_back(line.str()); }

  // A labelled row; pieces that do not fit go on in the next line.
  Line flow(std::string_view label, const std::vector<Piece>& pieces) {
    Line row = line();
    row.put(label, Style::dim).pad_to(label_columns);
    for (const Piece& piece : pieces) {
      const bool first = row.width() <= label_columns;
      if (!first && row.width() + gap_columns + piece.text.size() > columns_) {
        add(row);
        row = line();
        row.pad_to(label_columns);
      } else if (!first) {
        row.pad_to(row.width() + gap_columns);
      }
      row.put(piece.text, piece.style);
    }
    return row;
  }

  void title() {
    const std::string up = "up " + uptime_text(summary_.uptime);
    Line row = line();
    row.put("access_log", Style::bold);
    if (row.room() > up.size() + 4) {
      row.put("  ").put_cut(printable(summary_.source), row.room() - up.size() - 2, Style::dim);
    }
    if (row.room() >= up.size()) row.pad_to(columns_ - up.size()).put(up);
    add(row);
  }

  void rate() {
    Line row = flow("rate", {{grouped_rate(summary_.lines_per_second) + " lines/s", Style::bold},
                             {bytes_text(summary_.bytes_per_second) + "/s"}});
    // The graph begins at a fixed column while the numbers leave it free, lest it jump about.
    const std::size_t begin = std::max<std::size_t>(row.width() + gap_columns, 42);
    if (begin + sparkline_columns_min <= columns_) {
      row.pad_to(begin);
      sparkline(row, std::min(row.room(), sparkline_columns_max));
    }
    add(row);
  }

  void sparkline(Line& row, std::size_t width) const {
    static constexpr std::array<std::string_view, 8> blocks = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static constexpr std::array<std::string_view, 8> ascii = {"_", ".", ":", "-", "=", "+", "*", "#"};
    std::span<const double> rates = summary_.rate_history;
    if (rates.size() > width) rates = rates.last(width);
    double top = 0;
    for (const double rate : rates) {
      if (std::isfinite(rate)) top = std::max(top, rate);
    }
    for (const double rate : rates) {
      const double share = top > 0 && std::isfinite(rate) ? std::clamp(rate / top, 0.0, 1.0) : 0;
      const auto level = static_cast<std::size_t>(std::lround(share * 7));
      row.put_glyph((screen_.utf8 ? blocks : ascii).at(level), 1, Style::cyan);
    }
  }

  void batch() {
    // A batch that takes longer than its interval, or waits that long: the program does not keep up.
    const auto mark = [&](std::chrono::microseconds delay) {
      return summary_.batch_interval.count() > 0 && delay > summary_.batch_interval ? Style::red : Style::plain;
    };
    add(flow("batch", {{'#' + std::to_string(summary_.batch) + " every " + length_text(summary_.batch_interval)},
                       {"time " + delay_text(summary_.batch_time), mark(summary_.batch_time)},
                       {"scheduling " + delay_text(summary_.scheduling_delay), mark(summary_.scheduling_delay)},
                       {"total " + delay_text(summary_.total_delay), mark(summary_.total_delay)}}));
  }

  void tally(std::string_view label, std::string_view prefix, const Tally& tally) {
    std::vector<Piece> pieces;
    if (!prefix.empty()) pieces.push_back({std::string(prefix), Style::bold});
    pieces.push_back({grouped(tally.lines) + " hits"});
    pieces.push_back({bytes_text(static_cast<double>(tally.bytes))});
    pieces.push_back(
        {"errors " + percent(errors(tally), tally.lines, 2), errors(tally) != 0 ? Style::yellow : Style::plain});
    pieces.push_back({"5xx " + percent(tally.status_class[5], tally.lines, 2),
                      tally.status_class[5] != 0 ? Style::red : Style::plain});
    add(flow(label, pieces));
  }

  void totals() { tally("totals", "", summary_.totals); }

  void malformed() {
    const std::uint64_t all = summary_.totals.lines + summary_.malformed;
    add(flow("malformed",
             {{grouped(summary_.malformed) + " lines", summary_.malformed != 0 ? Style::yellow : Style::plain},
              {percent(summary_.malformed, all, 3)}}));
    const auto& samples = summary_.malformed_samples;
    for (std::size_t i = samples.size() - std::min(samples.size(), sample_count_max); i < samples.size(); ++i) {
      Line row = line();
      row.put("  ").put(printable(samples[i].field), Style::dim).pad_to(label_columns);
      // Four columns a byte at most: longer lines need not be escaped to their end.
      row.put_cut(printable(std::string_view(samples[i].line).substr(0, columns_)), row.room());
      add(row);
    }
  }

  void window() {
    blank();
    tally("window", "last " + length_text(summary_.window_length), summary_.window);
  }

  // The shares of the status classes, as text and as a bar. A class that occurs is at least one cell wide.
  void status_bar() {
    std::vector<Piece> pieces;
    for (std::size_t i = 1; i < 10; ++i) {
      const std::uint64_t count = summary_.window.status_class.at(i);
      if (count == 0 && (i < 2 || i > 5)) continue;
      pieces.push_back({std::to_string(i) + "xx " + percent(count, summary_.window.lines, 1), class_style(i)});
    }
    add(flow("status", pieces));
    Line row = line();
    row.pad_to(label_columns);
    const std::array<std::size_t, 10> cells = shares(row.room());
    for (std::size_t i = 1; i < 10; ++i) {
      // Without colours the digit of the class fills its part.
      const bool block = screen_.colours && screen_.utf8;
      row.put_glyph(block ? "█" : std::string_view("0123456789").substr(i, 1), cells.at(i), class_style(i));
    }
    add(row);
  }

  std::array<std::size_t, 10> shares(std::size_t width) const {
    const auto& counts = summary_.window.status_class;
    std::array<std::size_t, 10> cells{};
    const double all = std::accumulate(counts.begin() + 1, counts.end(), 0.0, [](double sum, std::uint64_t count) {
      return sum + static_cast<double>(count);
    });
    if (all <= 0) return cells;
    for (std::size_t i = 1; i < 10; ++i) {
      const double share = static_cast<double>(counts.at(i)) / all * static_cast<double>(width);
      cells.at(i) = counts.at(i) == 0 ? 0 : std::max<std::size_t>(1, static_cast<std::size_t>(share));
    }
    // The largest part takes what rounding left over, or gives what the small ones took.
    const auto largest = static_cast<std::size_t>(std::max_element(counts.begin() + 1, counts.end()) - counts.begin());
    const std::size_t used = std::accumulate(cells.begin(), cells.end(), std::size_t{0});
    cells.at(largest) += width;
    cells.at(largest) -= std::min(cells.at(largest), used);
    return cells;
  }

  // Top paths and clients, side by side if the screen is wide, as long as the screen is high.
  void lists() {
    blank();
    const std::size_t rows_left = rows_ - std::min(rows_, lines_.size());
    if (columns_ >= side_by_side_columns) {
      const std::size_t clients_at = columns_ * 3 / 5;
      const std::size_t shown = std::min(list_length_max, rows_left - std::min<std::size_t>(rows_left, 1));
      Line head = line();
      head.put("top paths", Style::bold).pad_to(clients_at).put("top clients", Style::bold);
      add(head);
      const std::size_t longest = std::max(summary_.top_paths.size(), summary_.top_clients.size());
      for (std::size_t i = 0; i < std::min(shown, longest); ++i) {
        Line row = line();
        entry(row, summary_.top_paths, i, clients_at - gap_columns);
        row.pad_to(clients_at);
        entry(row, summary_.top_clients, i, columns_ - clients_at);
        add(row);
      }
      return;
    }
    const std::size_t shown = std::min(list_length_max, (rows_left - std::min<std::size_t>(rows_left, 2)) / 2);
    list("top paths", summary_.top_paths, shown);
    list("top clients", summary_.top_clients, shown);
  }

  void list(std::string_view head, const std::vector<Ranked>& entries, std::size_t shown) {
    Line row = line();
    row.put(head, Style::bold);
    add(row);
    for (std::size_t i = 0; i < std::min(shown, entries.size()); ++i) {
      Line next = line();
      entry(next, entries, i, columns_);
      add(next);
    }
  }

  void entry(Line& row, const std::vector<Ranked>& entries, std::size_t index, std::size_t width) const {
    if (index >= entries.size()) return;
    const std::size_t end = row.width() + width;
    // The first count is the longest.
    const std::size_t digits = std::max<std::size_t>(6, grouped(entries.front().count).size());
    row.put_right(grouped(entries[index].count), digits, Style::cyan).put("  ");
    if (row.width() < end) row.put_cut(printable(entries[index].name), end - row.width());
  }

  void blank() { lines_.emplace_back("\n"); }

  const Summary& summary_;
  const Screen& screen_;
  std::size_t columns_;
  std::size_t rows_;
  std::vector<std::string> lines_;
};

std::string quoted(std::string_view text) { return '"' + printable(text) + '"'; }

std::string plain_line(const Summary& s) {
  const auto ms = [](std::chrono::microseconds delay) { return fixed(static_cast<double>(delay.count()) / 1000, 1); };
  std::string text = "up_s=" + std::to_string(s.uptime.count() / 1000) + " batch=" + std::to_string(s.batch) +
                     " lines_per_s=" + fixed(s.lines_per_second, 0) + " bytes_per_s=" + fixed(s.bytes_per_second, 0) +
                     " batch_ms=" + ms(s.batch_time) + " scheduling_ms=" + ms(s.scheduling_delay) +
                     " total_ms=" + ms(s.total_delay) + " malformed=" + std::to_string(s.malformed) +
                     " window_ms=" + std::to_string(s.window_length.count()) +
                     " hits=" + std::to_string(s.window.lines) + " bytes=" + std::to_string(s.window.bytes) +
                     " errors=" + std::to_string(errors(s.window)) + " total_hits=" + std::to_string(s.totals.lines) +
                     " total_bytes=" + std::to_string(s.totals.bytes);
  if (!s.top_paths.empty()) text += " top_path=" + quoted(s.top_paths.front().name);
  if (!s.top_clients.empty()) text += " top_client=" + quoted(s.top_clients.front().name);
  return text + '\n';
}

std::string_view variable(const char* name) {
  const char* value = std::getenv(name);  // the terminal's own settings, which no other part of the program reads
  return value == nullptr ? "" : value;
}

bool locale_is_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const std::string_view value = variable(name);
    if (value.empty()) continue;  // the first that is set decides
    return value.find("UTF-8") != value.npos || value.find("utf8") != value.npos || value.find("utf-8") != value.npos;
  }
  return false;
}

}  // namespace

Screen screen_of(int file_descriptor) {
  Screen screen;
  const std::string_view term = variable("TERM");
  screen.is_terminal = isatty(file_descriptor) == 1 && !term.empty() && term != "dumb";
  screen.colours = screen.is_terminal && variable("NO_COLOR").empty();
  screen.utf8 = locale_is_utf8();
  winsize size{};
  if (screen.is_terminal && ioctl(file_descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col != 0 && size.ws_row != 0) {
    screen.columns = size.ws_col;
    screen.rows = size.ws_row;
  }
  return screen;
}

std::string printable(std::string_view text) {
  constexpr std::string_view hex = "0123456789abcdef";
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte <= 0x7E) {
      out += c;
    } else {
      out += "\\x";
      out += hex[byte >> 4];
      out += hex[byte & 15];
    }
  }
  return out;
}

std::string render(const Summary& summary, const Screen& screen) {
  return screen.is_terminal ? Frame(summary, screen).text() : plain_line(summary);
}

std::string Painter::paint(std::string_view frame, const Screen& screen) {
  if (!screen.is_terminal) return std::string(frame);
  // Each line is written over the old one and only its rest is cleared: an erased screen between two frames would
  // flicker.
  std::string out = "\x1b[?25l\r";
  if (lines_ > 0 && (columns_ != screen.columns || rows_ != screen.rows)) {
    // Terminals that change their size break lines anew, move the top of the screen into the history or bring lines
    // back from there, each in its own way: where the old frame stands is not known. So all of the screen is covered.
    out += "\x1b[H";
  } else if (const std::size_t up = std::min(lines_, std::max<std::size_t>(screen.rows, 1) - 1); up > 0) {
    out += "\x1b[" + std::to_string(up) + 'A';
  }
  lines_ = 0;
  columns_ = screen.columns;
  rows_ = screen.rows;
  while (!frame.empty()) {
    const std::size_t end = std::min(frame.find('\n'), frame.size());
    ++lines_;
    out += frame.substr(0, end);
    out += "\x1b[K\n";
    frame.remove_prefix(std::min(end + 1, frame.size()));
  }
  // The cursor is shown again at once, so that a killed program leaves none hidden.
  return out + "\x1b[J\x1b[?25h";
}

bool Terminal::draw(const Summary& summary) {
  const Screen screen = screen_of(file_descriptor_);
  const std::string out = painter_.paint(render(summary, screen), screen);
  std::string_view rest = out;
  while (!rest.empty()) {
    const ssize_t written = write(file_descriptor_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace access_log
