// What a log comes to: the object that `access_log --once --json` prints, on one line.
//
//     {"lines":10000,"malformed":1,"bytes":2747282505,"status":{"200":9125,"404":213},
//      "top_paths":[["/favicon.ico",807],...],"top_clients":[["66.249.73.135",482],...]}
//
// `lines` counts all lines, the malformed ones too; everything else is of the well-formed ones. Statuses stand in
// rising order, the ten of each top list by falling count, equal counts by the bytes of the name.
// checks/access_log_oracle.sh computes the same text with awk and sort.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace access_log {

/// A path or a client, and how many lines had it.
struct Ranked {
  std::string name;
  std::uint64_t count = 0;

  bool operator==(const Ranked&) const = default;
};

/// The order of a top list: larger counts first, equal counts by the bytes of the names (as unsigned, like `LC_ALL=C
/// sort`). A strict total order when the names differ, so that a top list does not depend on how the work was split.
bool ranks_before(const Ranked& a, const Ranked& b) noexcept;

/// The first `count_max` of `all` in that order.
std::vector<Ranked> top(std::vector<Ranked> all, std::size_t count_max);

/// The figures of a log. The caller fills it; top lists are already cut and in order.
struct Report {
  std::uint64_t lines = 0;
  std::uint64_t malformed = 0;
  std::uint64_t bytes = 0;  // sent, as logged; modulo 2^64, which only a forged log reaches
  std::map<std::uint16_t, std::uint64_t> status;
  std::vector<Ranked> top_paths;
  std::vector<Ranked> top_clients;
};

/// `text` as a JSON string with its quotes, valid whatever the bytes are: text of logs is written by strangers.
/// Well-formed UTF-8 (RFC 3629) stays as it is; every byte that is not part of it becomes one U+FFFD, so two names that
/// differ only there look the same. Quotes and backslashes are escaped, and so are all control characters (U+0000 to
/// U+001F, U+007F to U+009F) as \u00xx, so that the text can be shown in a terminal.
std::string json_string(std::string_view text);

/// The JSON object, without a line end.
std::string to_json(const Report& report);

}  // namespace access_log
