#include "examples/access_log/job.h"

namespace access_log {

Entry entry_of(std::string_view line) noexcept {
  Entry entry;
  entry.line = line;
  if (const std::optional<LogLine> parsed = parse_without_end(line, &entry.error)) {
    entry.path = parsed->target;
    entry.client = parsed->client;
    entry.bytes = parsed->bytes;
    entry.status = parsed->status;
  }
  return entry;
}

Counts<sluice::DStream> over(const Counts<sluice::DStream>& counts, sluice::WindowOptions window) {
  sluice::WindowOptions in_one = window;
  in_one.partitions = 1;
  return {
      counts.by_status.reduce_by_key_and_window(std::plus{}, std::minus{}, in_one).name("statuses of the window"),
      counts.by_path.reduce_by_key_and_window(std::plus{}, std::minus{}, window).name("paths of the window"),
      counts.by_client.reduce_by_key_and_window(std::plus{}, std::minus{}, window).name("clients of the window"),
  };
}

sluice::DStream<std::pair<std::uint16_t, Hits>> since_start_by_status(const Counts<sluice::DStream>& counts) {
  // Keys without new lines keep their sums, so they cost nothing.
  return counts.by_status
      .update_state_by_key(
          [](std::span<const Hits> now, std::optional<Hits> sum) {
            for (const Hits hits : now) sum = sum.value_or(Hits{}) + hits;
            return sum;
          },
          {.idle_keeps_state = true, .partitions = 1})
      .name("all statuses");
}

Counts<sluice::DStream> since_start(const Counts<sluice::DStream>& counts) {
  const auto add = [](std::span<const std::uint64_t> now, std::optional<std::uint64_t> sum) {
    for (const std::uint64_t count : now) sum = sum.value_or(0) + count;
    return sum;
  };
  return {
      since_start_by_status(counts),
      counts.by_path.update_state_by_key(add, {.idle_keeps_state = true}).name("all paths"),
      counts.by_client.update_state_by_key(add, {.idle_keeps_state = true}).name("all clients"),
  };
}

std::vector<Row> TopRows::operator()(sluice::Partition<std::pair<std::string_view, std::uint64_t>>& partition) const {
  std::vector<Ranked> best;  // in order, at most ten
  for (const auto& [name, count] : partition) {
    if (best.size() == top_count && count < best.back().count) continue;
    Ranked next{std::string(name), count};
    best.insert(std::upper_bound(best.begin(), best.end(), next, ranks_before), std::move(next));
    if (best.size() > top_count) best.pop_back();
  }
  std::vector<Row> rows;
  for (Ranked& ranked : best) rows.push_back({scope, kind, 0, ranked.count, 0, std::move(ranked.name), {}});
  return rows;
}

std::vector<Row> SampleRows::operator()(sluice::Partition<Entry>& partition) const {
  std::vector<Row> rows;
  for (const Entry& entry : partition) {
    if (rows.size() == sample_count) break;
    rows.push_back({Scope::batch, RowKind::malformed, 0, 1, 0, std::string(name_of(entry.error)),
                    std::string(entry.line.substr(0, sample_bytes_max))});
  }
  return rows;
}

Report report_of(const sluice::Records<Row>& rows, Scope scope) {
  Report report;
  for (const Row& row : rows) {
    if (row.scope != scope) continue;
    switch (row.kind) {
      case RowKind::status:
        report.lines += row.count;
        if (row.status == 0) {
          report.malformed += row.count;
        } else {
          report.bytes += row.bytes;
          report.status[row.status] += row.count;
        }
        break;
      case RowKind::path: report.top_paths.push_back({row.name, row.count}); break;
      case RowKind::client: report.top_clients.push_back({row.name, row.count}); break;
      case RowKind::malformed: break;
    }
  }
  report.top_paths = top(std::move(report.top_paths), top_count);
  report.top_clients = top(std::move(report.top_clients), top_count);
  return report;
}

std::vector<MalformedSample> samples_among(const sluice::Records<Row>& rows) {
  std::vector<MalformedSample> samples;
  for (const Row& row : rows) {
    if (row.kind == RowKind::malformed && samples.size() < sample_count) samples.push_back({row.name, row.line});
  }
  return samples;
}

Tally tally_of(const Report& report) {
  Tally tally;
  tally.lines = report.lines - report.malformed;
  tally.bytes = report.bytes;
  for (const auto& [status, count] : report.status) tally.status_class.at(status / 100U) += count;
  return tally;
}

}  // namespace access_log
