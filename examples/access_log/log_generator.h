// Makes up the lines of a busy web server's access log, for demonstrations and load.
//
//     LogGenerator log({.seed = 7});
//     log.set_time(std::chrono::sys_days{2015y / May / 17} + 10h);
//     out << log.next_line() << '\n';
//
// Paths and clients follow Zipf's law (the one of rank k comes about 1/k as often as the first), as the requests of
// real servers do. A path keeps its size. Mostly 200, some 304, 404, 301, 206 and few 5xx; GET, POST and HEAD; IPv4,
// IPv6 and host names; now and then a target with escaped quotes or a request "-".
//
// Deterministic: the lines depend on the options and the times set, on nothing else (no clock, no locale, no
// floating-point number, no <random> distribution, whose results differ between libraries).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace access_log {

struct LogGeneratorOptions {
  std::uint64_t seed = 1;
  /// How many different paths there are; at least 1. Memory: about 100 bytes each.
  std::size_t path_count = 1000;
  /// How many different clients there are; at least 1.
  std::size_t client_count = 5000;
  /// How many lines in a million are malformed on purpose: cut lines, rubbish, terminal escapes, an open quote.
  std::uint32_t malformed_per_million = 500;
  /// With referrer and agent (Combined Log Format) or without (Common).
  bool combined = true;
};

/// Threads: one at a time.
class LogGenerator {
 public:
  explicit LogGenerator(LogGeneratorOptions options = {});

  /// The time stamp of the lines to come, in UTC. Until the first call: 1970-01-01.
  void set_time(std::chrono::sys_seconds time);

  /// The next line, without a line end. It holds no "\n" and no "\r"; bytes such as NUL and ESC only when it is
  /// malformed.
  std::string next_line();

  /// As next_line, but to the end of `out`: about 250 ns and no allocation once `out` has grown.
  void append_line(std::string& out);

  /// Lines made so far, and how many of them are malformed: what `parse` must find.
  std::uint64_t line_count() const { return line_count_; }
  std::uint64_t malformed_count() const { return malformed_count_; }

 private:
  // Draws ranks by Zipf's law, in whole numbers.
  class Zipf {
   public:
    explicit Zipf(std::size_t count);
    std::size_t rank(std::uint64_t random) const;

   private:
    std::vector<std::uint64_t> sums_;  // sums_[k]: the weights of the ranks 0 to k
  };

  struct Path {
    std::string target;
    std::uint64_t size = 0;
  };

  std::uint64_t random();
  std::uint64_t random_below(std::uint64_t limit);
  void append_malformed(std::string& out);
  void append_request(std::string& out, const Path& path);

  LogGeneratorOptions options_;
  std::uint64_t state_;
  std::vector<Path> paths_;
  std::vector<std::string> clients_;
  std::vector<std::string> agents_;
  Zipf path_ranks_;
  Zipf client_ranks_;
  std::string time_;  // " - - [17/May/2015:10:05:03 +0000] "
  std::uint64_t line_count_ = 0;
  std::uint64_t malformed_count_ = 0;
};

}  // namespace access_log
