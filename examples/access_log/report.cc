#include "examples/access_log/report.h"

#include <algorithm>
#include <utility>

namespace access_log {
namespace {

unsigned byte_at(std::string_view text, std::size_t at) { return static_cast<unsigned char>(text[at]); }

// The length of the well-formed UTF-8 sequence at the start of `text` (not empty), or 0: RFC 3629, section 4. The
// second byte's narrower ranges keep out long forms, surrogates and what lies beyond U+10FFFF.
std::size_t utf8_length(std::string_view text) {
  const unsigned first = byte_at(text, 0);
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  const std::size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (text.size() < length) return 0;
  const unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (byte_at(text, 1) < low || byte_at(text, 1) > high) return 0;
  for (std::size_t i = 2; i < length; ++i) {
    if (byte_at(text, i) < 0x80 || byte_at(text, i) > 0xBF) return 0;
  }
  return length;
}

void append_escape(std::string& out, unsigned code) {
  constexpr std::string_view hex = "0123456789abcdef";
  out += "\\u00";
  out += hex[code >> 4];
  out += hex[code & 15];
}

void append_string(std::string& out, std::string_view text) {
  out += '"';
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const unsigned first = byte_at(text, 0);
    if (length == 0) {
      out += "\xEF\xBF\xBD";
    } else if (first == '"' || first == '\\') {
      out += '\\';
      out += text[0];
    } else if (first < 0x20 || first == 0x7F) {
      append_escape(out, first);
    } else if (first == 0xC2 && byte_at(text, 1) < 0xA0) {
      append_escape(out, byte_at(text, 1));
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  out += '"';
}

void append_ranked(std::string& out, std::string_view key, const std::vector<Ranked>& ranked) {
  out += ",\"";
  out += key;
  out += "\":[";
  for (const Ranked& entry : ranked) {
    if (&entry != &ranked.front()) out += ',';
    out += '[';
    append_string(out, entry.name);
    out += ',' + std::to_string(entry.count) + ']';
  }
  out += ']';
}

}  // namespace

bool ranks_before(const Ranked& a, const Ranked& b) noexcept {
  return a.count != b.count ? a.count > b.count : a.name < b.name;  // char_traits<char> compares as unsigned bytes
}

std::vector<Ranked> top(std::vector<Ranked> all, std::size_t count_max) {
  const std::size_t count = std::min(all.size(), count_max);
  std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count), all.end(), ranks_before);
  all.resize(count);
  return all;
}

std::string json_string(std::string_view text) {
  std::string out;
  append_string(out, text);
  return out;
}

std::string to_json(const Report& report) {
  std::string out = "{\"lines\":" + std::to_string(report.lines) +
                    ",\"malformed\":" + std::to_string(report.malformed) +
                    ",\"bytes\":" + std::to_string(report.bytes) + ",\"status\":{";
  const char* comma = "";
  for (const auto& [status, count] : report.status) {
    out += std::exchange(comma, ",");
    out += '"' + std::to_string(status) + "\":" + std::to_string(count);
  }
  out += '}';
  append_ranked(out, "top_paths", report.top_paths);
  append_ranked(out, "top_clients", report.top_clients);
  out += '}';
  return out;
}

}  // namespace access_log
