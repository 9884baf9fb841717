#include "examples/access_log/once.h"

#include <fmt/format.h>

#include <memory>

#include "examples/access_log/job.h"
#include "examples/access_log/setup.h"

namespace access_log {
namespace {

using sluice::Records;

OnceResult read_files(const sluice::Context& ctx, const std::string& path) {
  const auto entries = parse_lines(ctx.text_file(path));
  const Records<Row> rows = rows_of(count(entries), Scope::batch).union_with(samples_of(entries)).collect();
  return {report_of(rows, Scope::batch), samples_among(rows)};
}

OnceResult read_standard_input(const sluice::Context& ctx) {
  const TemporaryDirectory directory(ctx.runtime());
  // A batch is what came in a quarter of a second: the same job as for files, and sums over the batches.
  const sluice::StreamingContext ssc(ctx, {.batch = std::chrono::milliseconds(250),
                                           .checkpoint = directory.path() + "/checkpoint",
                                           .stop_at_end_of_input = true});
  const auto entries = parse_lines(ssc.stdin_stream());
  const auto result = std::make_shared<OnceResult>();
  rows_of(since_start(count(entries)), Scope::totals)
      .union_with(samples_of(entries))
      .foreach_rdd([result](const sluice::Rdd<Row>& rdd) {
        const Records<Row> rows = rdd.collect();
        result->report = report_of(rows, Scope::totals);
        for (MalformedSample& sample : samples_among(rows)) {
          if (result->samples.size() < sample_count) result->samples.push_back(std::move(sample));
        }
      });
  ssc.start();
  ssc.await_termination();
  return *result;
}

std::string top_list(std::string_view head, const std::vector<Ranked>& list) {
  std::string text = fmt::format("{}\n", head);
  for (const Ranked& ranked : list) text += fmt::format("{:>12}  {}\n", ranked.count, printable(ranked.name));
  return text;
}

}  // namespace

OnceResult read_once(const Options& options) {
  const sluice::Context ctx({.app = "access_log", .master = default_master()});
  OnceResult result =
      options.input == InputKind::standard_input ? read_standard_input(ctx) : read_files(ctx, options.path);
  const auto too_long = static_cast<std::uint64_t>(ctx.lines_too_long());
  result.report.lines += too_long;
  result.report.malformed += too_long;
  return result;
}

std::string to_text(const OnceResult& result) {
  const Report& report = result.report;
  std::string text = fmt::format("{:<12}{:>14}\n{:<12}{:>14}\n{:<12}{:>14}\n", "lines", report.lines, "malformed",
                                 report.malformed, "bytes", report.bytes);
  for (const MalformedSample& sample : result.samples) {
    text += fmt::format("  e.g. no {}: {}\n", sample.field, printable(sample.line.substr(0, 100)));
  }
  text += "\nstatus\n";
  for (const auto& [status, count] : report.status) text += fmt::format("{:>12}  {}\n", count, status);
  return text + top_list("\ntop paths", report.top_paths) + top_list("\ntop clients", report.top_clients);
}

}  // namespace access_log
