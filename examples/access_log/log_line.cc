#include "examples/access_log/log_line.h"

#include <array>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <system_error>

namespace access_log {
namespace {

const char* find(const char* begin, const char* end, char byte) {
  return static_cast<const char*>(std::memchr(begin, byte, static_cast<std::size_t>(end - begin)));
}

std::string_view between(const char* begin, const char* end) { return {begin, static_cast<std::size_t>(end - begin)}; }

// Walks over a line, field by field. Between two fields it stands on the SP (or the end) that follows the first.
class Cursor {
 public:
  // The line must not be empty: memchr takes no null pointer.
  explicit Cursor(std::string_view line) : at_(line.data()), end_(line.data() + line.size()) {}

  bool at_end() const { return at_ == end_; }

  bool separator() {
    if (at_ == end_ || *at_ != ' ') return false;
    ++at_;
    return true;
  }

  bool word(std::string_view& out) {
    const char* stop = find(at_, end_, ' ');
    if (stop == nullptr) stop = end_;
    out = between(at_, stop);
    at_ = stop;
    return !out.empty();
  }

  // identity and user are nearly always "-": worth a look before the call of memchr.
  bool word_or_dash(std::string_view& out) {
    if (end_ - at_ < 2 || at_[0] != '-' || at_[1] != ' ') return word(out);
    out = between(at_, at_ + 1);
    ++at_;
    return true;
  }

  bool bracketed(std::string_view& out) {
    if (at_ == end_ || *at_ != '[') return false;
    const char* close = find(at_, end_, ']');
    if (close == nullptr) return false;
    out = between(at_ + 1, close);
    at_ = close + 1;
    return !out.empty() && field_ends();
  }

  // A quote is escaped when an odd number of backslashes stands before it. The runs of backslashes before two quotes do
  // not overlap, so counting them backwards stays linear.
  bool quoted(std::string_view& out) {
    if (at_ == end_ || *at_ != '"') return false;
    const char* begin = at_ + 1;
    for (const char* close = begin;; ++close) {
      close = find(close, end_, '"');
      if (close == nullptr) return false;
      const char* run = close;
      while (run != begin && run[-1] == '\\') --run;
      if ((close - run) % 2 != 0) continue;
      out = between(begin, close);
      at_ = close + 1;
      return field_ends();
    }
  }

 private:
  bool field_ends() const { return at_ == end_ || *at_ == ' '; }

  const char* at_;
  const char* end_;
};

void split_request(LogLine& line) {
  const std::string_view request = line.request;
  const std::size_t method_end = request.find(' ');
  if (method_end == std::string_view::npos) {
    line.target = request;
    return;
  }
  line.method = request.substr(0, method_end);
  line.target = request.substr(method_end + 1);
  const std::size_t target_end = request.rfind(' ');
  if (target_end == method_end || !request.substr(target_end + 1).starts_with("HTTP/")) return;
  line.protocol = request.substr(target_end + 1);
  line.target = request.substr(method_end + 1, target_end - method_end - 1);
}

bool read_status(std::string_view word, std::uint16_t& status) {
  if (word.size() != 3 || word[0] < '1') return false;
  unsigned value = 0;
  for (const char digit : word) {
    if (digit < '0' || digit > '9') return false;
    value = value * 10 + static_cast<unsigned>(digit - '0');
  }
  status = static_cast<std::uint16_t>(value);
  return true;
}

bool read_bytes(std::string_view word, LogLine& line) {
  if (word == "-") return true;
  const char* end = word.data() + word.size();
  const auto [stop, error] = std::from_chars(word.data(), end, line.bytes);  // refuses signs and more than 64 bits
  line.has_bytes = true;
  return error == std::errc{} && stop == end;
}

ParseError read(std::string_view text, LogLine& line) {
  if (text.empty()) return ParseError::client;
  Cursor cursor(text);
  std::string_view word;
  if (!cursor.word(line.client)) return ParseError::client;
  if (!cursor.separator() || !cursor.word_or_dash(line.identity)) return ParseError::identity;
  if (!cursor.separator() || !cursor.word_or_dash(line.user)) return ParseError::user;
  if (!cursor.separator() || !cursor.bracketed(line.time)) return ParseError::time;
  if (!cursor.separator() || !cursor.quoted(line.request)) return ParseError::request;
  if (!cursor.separator() || !cursor.word(word) || !read_status(word, line.status)) return ParseError::status;
  if (!cursor.separator() || !cursor.word(word) || !read_bytes(word, line)) return ParseError::bytes;
  split_request(line);
  if (cursor.at_end()) return ParseError::none;
  if (!cursor.separator() || !cursor.quoted(line.referrer)) return ParseError::referrer;
  if (!cursor.separator() || !cursor.quoted(line.agent)) return ParseError::agent;
  line.combined = true;
  return ParseError::none;
}

}  // namespace

std::string_view name_of(ParseError error) noexcept {
  static constexpr std::array<std::string_view, 10> names = {"none",    "client", "identity", "user",     "time",
                                                             "request", "status", "bytes",    "referrer", "agent"};
  return names.at(static_cast<std::size_t>(error));
}

std::optional<LogLine> parse(std::string_view line, ParseError* why) noexcept {
  if (line.ends_with('\r')) line.remove_suffix(1);
  return parse_without_end(line, why);
}

std::optional<LogLine> parse_without_end(std::string_view line, ParseError* why) noexcept {
  std::optional<LogLine> result(std::in_place);  // filled in place: one named result, never copied
  const ParseError error = read(line, *result);
  if (error != ParseError::none) result.reset();
  if (why != nullptr) *why = error;
  return result;
}

}  // namespace access_log
