// What is computed of a log: one set of operators, for a batch (Rdd) and a stream (DStream) alike.
//
//     // a batch
//     const auto counts = count(parse_lines(ctx.text_file("access.log")));
//     const Report report = report_of(rows_of(counts, Scope::batch).collect(), Scope::batch);
//
//     // a stream: the same functions
//     const auto counts = count(parse_lines(ssc.follow_file("access.log")));
//     rows_of(counts, Scope::batch).union_with(rows_of(over(counts, window), Scope::window)).foreach_rdd(...);
//
// A line is parsed once: the counts of its status, path and client all begin at the same parsed record, and everything
// that is shown ends in one collection of rows, so the engine plans all of it as one job that reads the lines once.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "examples/access_log/log_line.h"
#include "examples/access_log/report.h"
#include "examples/access_log/terminal.h"
#include "sluice/sluice.h"

namespace access_log {

/// What the figures need of a line. Views into it.
struct Entry {
  std::string_view line;
  std::string_view path;
  std::string_view client;
  std::uint64_t bytes = 0;
  std::uint16_t status = 0;             // 0: malformed
  ParseError error = ParseError::none;  // why

  bool well_formed() const { return error == ParseError::none; }
};

/// The parsed line, malformed or not.
Entry entry_of(std::string_view line) noexcept;

/// Lines and what was sent for them. Hits can be taken out of a window again: they have a minus.
struct Hits {
  std::uint64_t lines = 0;
  std::uint64_t bytes = 0;

  friend Hits operator+(Hits a, Hits b) { return {a.lines + b.lines, a.bytes + b.bytes}; }
  friend Hits operator-(Hits a, Hits b) { return {a.lines - b.lines, a.bytes - b.bytes}; }
};

/// The tables of a log: `Many` is sluice::Rdd or sluice::DStream. Malformed lines are those of status 0.
template <template <class> class Many>
struct Counts {
  Many<std::pair<std::uint16_t, Hits>> by_status;
  Many<std::pair<std::string_view, std::uint64_t>> by_path;
  Many<std::pair<std::string_view, std::uint64_t>> by_client;
};

template <template <class> class Many>
Many<Entry> parse_lines(const Many<std::string_view>& lines) {
  return lines.map([](std::string_view line) { return entry_of(line); });
}

template <template <class> class Many>
Counts<Many> count(const Many<Entry>& entries) {
  const auto well_formed = sluice::filter([](const Entry& entry) { return entry.well_formed(); });
  return {
      entries.map([](const Entry& entry) { return std::pair{entry.status, Hits{1, entry.bytes}}; })
          .reduce_by_key(std::plus{}, 1),
      entries.apply(well_formed | sluice::map([](const Entry& e) { return std::pair{e.path, std::uint64_t{1}}; }))
          .reduce_by_key(std::plus{}),
      entries.apply(well_formed | sluice::map([](const Entry& e) { return std::pair{e.client, std::uint64_t{1}}; }))
          .reduce_by_key(std::plus{}),
  };
}

/// The same tables over a sliding window: what enters is added, what leaves is taken out again.
Counts<sluice::DStream> over(const Counts<sluice::DStream>& counts, sluice::WindowOptions window);

/// The statuses since the start.
sluice::DStream<std::pair<std::uint16_t, Hits>> since_start_by_status(const Counts<sluice::DStream>& counts);

/// All tables since the start, for an input that has an end: the state grows with the number of paths and clients.
Counts<sluice::DStream> since_start(const Counts<sluice::DStream>& counts);

// ---- What the tables come to: rows that own their text, few enough to be brought to the driver.

/// Which lines a row is about.
enum class Scope : std::uint8_t { batch, window, totals };
enum class RowKind : std::uint8_t { status, path, client, malformed };

struct Row {
  Scope scope = Scope::batch;
  RowKind kind = RowKind::status;
  std::uint16_t status = 0;  // status: 0 for the malformed lines
  std::uint64_t count = 0;
  std::uint64_t bytes = 0;  // status
  std::string name;         // path, client; malformed: the broken field
  std::string line;         // malformed
};

inline constexpr std::size_t top_count = 10;
inline constexpr std::size_t sample_count = 3;
inline constexpr std::size_t sample_bytes_max = 500;

/// For map_partitions: the first ten of a partition. The first ten of all are among them, since a name lies in one.
struct TopRows {
  Scope scope;
  RowKind kind;

  std::vector<Row> operator()(sluice::Partition<std::pair<std::string_view, std::uint64_t>>& partition) const;
};

/// For map_partitions: some of a partition's malformed lines, cut to `sample_bytes_max`.
struct SampleRows {
  std::vector<Row> operator()(sluice::Partition<Entry>& partition) const;
};

template <template <class> class Many>
Many<Row> status_rows(const Many<std::pair<std::uint16_t, Hits>>& by_status, Scope scope) {
  return by_status.map([scope](const std::pair<std::uint16_t, Hits>& of) {
    return Row{scope, RowKind::status, of.first, of.second.lines, of.second.bytes, {}, {}};
  });
}

/// The statuses and the first ten paths and clients of each partition.
template <template <class> class Many>
Many<Row> rows_of(const Counts<Many>& counts, Scope scope) {
  return status_rows(counts.by_status, scope)
      .union_with(counts.by_path.map_partitions(TopRows{scope, RowKind::path}))
      .union_with(counts.by_client.map_partitions(TopRows{scope, RowKind::client}));
}

/// Some of the malformed lines.
template <template <class> class Many>
Many<Row> samples_of(const Many<Entry>& entries) {
  return entries.filter([](const Entry& entry) { return !entry.well_formed(); }).map_partitions(SampleRows{});
}

/// The report that the rows of `scope` make up.
Report report_of(const sluice::Records<Row>& rows, Scope scope);

/// The malformed lines among the rows.
std::vector<MalformedSample> samples_among(const sluice::Records<Row>& rows);

/// The sums of a report.
Tally tally_of(const Report& report);

}  // namespace access_log
