#include "examples/access_log/log_generator.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string_view>

namespace access_log {
namespace {

using namespace std::string_view_literals;

constexpr std::array words = {"alpha"sv, "books"sv, "cart"sv,   "docs"sv,    "events"sv, "forum"sv,
                              "guide"sv, "help"sv,  "items"sv,  "journal"sv, "kernel"sv, "lists"sv,
                              "maps"sv,  "news"sv,  "offers"sv, "photos"sv};
constexpr std::array first_targets = {"/"sv,
                                      "/favicon.ico"sv,
                                      "/style.css"sv,
                                      "/images/logo.png"sv,
                                      "/robots.txt"sv,
                                      "/index.html"sv,
                                      "/search?q=stream+processing"sv,
                                      "/login"sv};
constexpr std::array agents = {
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36"sv,
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 "
    "Mobile/15E148 Safari/604.1"sv,
    "Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0"sv,
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/17.4 Safari/605.1.15"sv,
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"sv,
    "curl/8.7.1"sv,
    "UniversalFeedParser/4.2 \\\"test\\\" build"sv,
    "-"sv};

// SplitMix64 (Steele, Lea, Flood 2014): a few cycles a number, any seed is good.
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

void append_number(std::string& out, std::uint64_t value, std::size_t digits = 1) {
  std::array<char, 20> text{};
  std::size_t at = text.size();
  for (; value != 0 || text.size() - at < digits; value /= 10) text[--at] = static_cast<char>('0' + value % 10);
  out.append(text.data() + at, text.size() - at);
}

// The most requested targets are the same in every log; the others are made of words and end in their number, so that
// all differ.
std::string target_of(std::size_t number, std::uint64_t random) {
  if (number < first_targets.size()) return std::string(first_targets[number]);
  const std::string_view a = words[random % 16];
  const std::string_view b = words[(random >> 4) % 16];
  const std::string name = std::string(b) + '-' + std::to_string(number);
  switch ((random >> 8) % 16) {
    case 0: return "/api/v2/" + std::string(a) + "?id=" + std::to_string(number);
    case 1: return "/static/" + std::string(a) + '/' + name + ".js";
    case 2:
    case 3: return "/images/" + std::string(a) + '/' + name + ".jpg";
    case 4: return "/" + std::string(a) + "/say=\\\"" + name + "\\\"";
    case 5: return "/" + std::string(a) + "/caf%C3%A9/" + name;
    default: return "/blog/" + std::string(a) + '/' + name + ".html";
  }
}

// Sizes from about 200 bytes to 200 kB, each order of magnitude as likely as the others.
std::uint64_t size_of(std::uint64_t random) {
  const std::uint64_t base = std::uint64_t{200} << (random % 10);
  return base + (random >> 8) % base;
}

// `number` is part of the name, so that all clients differ (in the IPv4 address times an odd number modulo 2^24, which
// maps no two to one).
std::string client_of(std::size_t number, std::uint64_t random) {
  constexpr std::string_view hex = "0123456789abcdef";
  const std::size_t low_part = number * 0x9E3779 + 0x51;
  const std::uint64_t kind = random % 16;
  if (kind == 0) return "host-" + std::to_string(number) + ".dsl.example.net";
  if (kind == 1) {
    std::string address = "2001:db8";
    for (int group = 0; group < 2; ++group) {
      address += ':';
      for (int digit = 0; digit < 4; ++digit) address += hex[(random >> (8 + 16 * group + 4 * digit)) % 16];
    }
    return address + "::" + std::to_string(number);
  }
  return std::to_string(1 + (random >> 8) % 223) + '.' + std::to_string(low_part / 65536 % 256) + '.' +
         std::to_string(low_part / 256 % 256) + '.' + std::to_string(low_part % 256);
}

}  // namespace

LogGenerator::Zipf::Zipf(std::size_t count) {
  std::uint64_t sum = 0;
  for (std::size_t rank = 0; rank < count; ++rank) sums_.push_back(sum += (std::uint64_t{1} << 32) / (rank + 1) + 1);
}

std::size_t LogGenerator::Zipf::rank(std::uint64_t random) const {
  return static_cast<std::size_t>(std::upper_bound(sums_.begin(), sums_.end(), random % sums_.back()) - sums_.begin());
}

LogGenerator::LogGenerator(LogGeneratorOptions options)
    : options_(options), state_(options.seed), path_ranks_(options.path_count), client_ranks_(options.client_count) {
  if (options.path_count == 0 || options.client_count == 0) {
    throw std::invalid_argument("LogGenerator: path_count and client_count must be at least 1");
  }
  for (std::size_t i = 0; i < options.path_count; ++i) {
    const std::uint64_t draw = random();
    paths_.push_back({target_of(i, draw), size_of(mix(draw))});
  }
  for (std::size_t i = 0; i < options.client_count; ++i) clients_.push_back(client_of(i, random()));
  for (const std::string_view agent : agents) agents_.push_back('"' + std::string(agent) + '"');
  set_time({});
}

void LogGenerator::set_time(std::chrono::sys_seconds time) {
  constexpr std::string_view months = "JanFebMarAprMayJunJulAugSepOctNovDec";
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(time - day);
  time_ = " - - [";
  append_number(time_, unsigned{date.day()}, 2);
  time_ += '/';
  time_ += months.substr((unsigned{date.month()} - 1) * 3, 3);
  time_ += '/';
  append_number(time_, static_cast<std::uint64_t>(int{date.year()}), 4);
  for (const auto part : {clock.hours().count(), clock.minutes().count(), clock.seconds().count()}) {
    time_ += ':';
    append_number(time_, static_cast<std::uint64_t>(part), 2);
  }
  time_ += " +0000] ";
}

std::string LogGenerator::next_line() {
  std::string line;
  append_line(line);
  return line;
}

void LogGenerator::append_line(std::string& out) {
  ++line_count_;
  if (random_below(1'000'000) < options_.malformed_per_million) {
    ++malformed_count_;
    append_malformed(out);
    return;
  }
  out += clients_[client_ranks_.rank(random())];
  out += time_;
  const Path& path = paths_[path_ranks_.rank(random())];
  append_request(out, path);
  if (!options_.combined) return;
  const std::uint64_t draw = random();
  if (draw % 3 == 0) {
    out += " \"-\" ";
  } else {
    // A page leads to another: referrers are the favourites among the paths.
    out += " \"https://www.example.com";
    out += paths_[(draw >> 8) % std::min<std::size_t>(paths_.size(), 20)].target;
    out += "\" ";
  }
  out += agents_[(draw >> 32) % agents_.size()];
}

// The request, the status and the bytes, of 1,000 parts.
void LogGenerator::append_request(std::string& out, const Path& path) {
  const std::uint64_t draw = random_below(1000);
  if (draw == 999) {  // a client that opened a connection and said nothing
    out += "\"-\" 408 -";
    return;
  }
  const std::uint64_t method = random_below(100);
  out += method < 93 ? "\"GET "sv : method < 98 ? "\"POST "sv : "\"HEAD "sv;
  out += path.target;
  out += " HTTP/1.1\" "sv;
  if (draw < 45) {
    out += "304 -"sv;
  } else if (draw < 70) {
    out += "404 196"sv;
  } else if (draw < 85) {
    out += "301 237"sv;
  } else if (draw < 90) {
    out += "206 65536"sv;
  } else if (draw < 93) {
    out += "500 534"sv;
  } else if (draw < 95) {
    out += "503 299"sv;
  } else {
    out += "200 "sv;
    append_number(out, method < 98 ? path.size : 0);
  }
}

void LogGenerator::append_malformed(std::string& out) {
  const std::string& client = clients_[client_ranks_.rank(random())];
  const std::uint64_t draw = random();
  switch (draw % 7) {
    case 0: return;  // an empty line
    case 1:          // the machine went down while it wrote
      out.append(client).append(time_).append("\"GET ").append(paths_[(draw >> 8) % paths_.size()].target);
      return;
    case 2: out.append(client).append(time_).append(R"("GET / HTTP/1.1" 200 1024 "-" "Mozilla/5.0 (Windo)"); return;
    case 3: out += "\x16\x03\x01\x02\0\x01\xfc\x03\xff"sv; return;    // a TLS hello in the wrong place
    case 4: out += "\x1b[2J\x1b[31mowned\x1b]0;title\x07"sv; return;  // an attack on the reader's terminal
    case 5: out.append(client).append(time_).append("\"GET / HTTP/1.1\" OK 512"); return;
    default: out += "[error] worker process 4711 exited on signal 11"sv; return;  // a line of the other log
  }
}

std::uint64_t LogGenerator::random() { return mix(state_ += 0x9E3779B97F4A7C15U); }

// The remainder favours small numbers by less than limit / 2^64: nothing here can tell.
std::uint64_t LogGenerator::random_below(std::uint64_t limit) { return random() % limit; }

}  // namespace access_log
