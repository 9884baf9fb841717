#include "examples/access_log/live.h"

#include <fmt/format.h>

#include <atomic>
#include <memory>
#include <string>

#include "examples/access_log/dashboard.h"
#include "examples/access_log/job.h"
#include "examples/access_log/setup.h"
#include "examples/access_log/traffic.h"
#include "sluice/runtime/process.h"

namespace access_log {
namespace {

using namespace std::chrono_literals;

sluice::DStream<std::string_view> open_input(const sluice::StreamingContext& ssc, const Options& options) {
  switch (options.input) {
    case InputKind::directory: return ssc.text_file_stream(options.path, {.existing_files = true});
    case InputKind::standard_input: return ssc.stdin_stream();
    case InputKind::socket: {
      const std::optional<Endpoint> endpoint = endpoint_of(options.path);
      return ssc.socket_text_stream(endpoint->host, endpoint->port);
    }
    case InputKind::file:
    case InputKind::demo: break;
  }
  return ssc.follow_file(options.path, {.from_start = !options.from_end});
}

std::string source_text(const Options& options, bool made_up) {
  if (made_up) return "a made-up log";
  if (options.path == "-") return "standard input";
  return options.path;
}

// A graceful stop does not look into a followed file once more, so the last lines get the batches they need. Not long:
// someone waits for the end.
void await_last_line(const sluice::StreamingContext& ssc, Traffic& traffic, const Dashboard& dashboard) {
  traffic.stop();
  const sluice::Clock& clock = ssc.context().runtime().clock();
  const sluice::Time until = clock.now() + 3s;
  while (dashboard.lines() < traffic.lines() && clock.now() < until && !ssc.await_termination(5ms)) {
  }
}

}  // namespace

int run_live(const Options& given, int out) {
  Options options = given;
  const sluice::Context ctx({.app = "access_log", .master = default_master()});
  sluice::Runtime& runtime = ctx.runtime();
  const TemporaryDirectory directory(runtime);
  std::unique_ptr<Traffic> traffic;
  const bool made_up = options.demo && options.path.empty();
  if (made_up) {
    options.path = directory.path() + "/access.log";
    traffic = std::make_unique<Traffic>(runtime, options.path);
  }

  const sluice::StreamingContext ssc(
      ctx, {.batch = options.batch, .checkpoint = directory.path() + "/checkpoint", .stop_at_end_of_input = true});
  const auto entries = parse_lines(open_input(ssc, options));
  const Counts<sluice::DStream> counts = count(entries);
  const auto dashboard = std::make_shared<Dashboard>(runtime.clock(), out, options.json, ssc.batch_interval(),
                                                     options.window, source_text(options, made_up));
  // One output for all that is shown, so that a screen shows one batch.
  rows_of(counts, Scope::batch)
      .union_with(rows_of(over(counts, {.length = options.window}), Scope::window))
      .union_with(status_rows(since_start_by_status(counts), Scope::totals))
      .union_with(samples_of(entries))
      .foreach_rdd(
          [dashboard](const sluice::Rdd<Row>& rows, sluice::Time time) { dashboard->take(rows.collect(), time); });
  ssc.add_listener(dashboard);  // draws when the batch is done and its times are known

  // A signal only sets a flag: the log is stopped before the stream, so that the stream counts all of it.
  std::atomic<bool> interrupted{false};
  const sluice::SignalWatch watch([&interrupted](int) { interrupted = true; });
  dashboard->begin();
  ssc.start();
  const sluice::Time begin = runtime.clock().now();
  while (!ssc.await_termination(20ms)) {
    const bool over = options.run_time && runtime.clock().now() - begin >= *options.run_time;
    if (!interrupted && !over && !dashboard->output_lost()) continue;
    if (traffic != nullptr) await_last_line(ssc, *traffic, *dashboard);
    ssc.stop({.graceful = true});
    break;
  }
  ssc.await_termination();                 // throws what stopped it
  if (dashboard->output_lost()) return 0;  // as `| head` wants it
  dashboard->finish(static_cast<std::uint64_t>(ctx.lines_too_long()));
  if (traffic != nullptr) {
    traffic->stop();
    if (!traffic->failure().empty()) {
      fmt::print(stderr, "access_log: writing the made-up log failed: {}\n", traffic->failure());
      return 1;
    }
    if (!options.json) dashboard->say(fmt::format("{} lines were written to the log\n", traffic->lines()));
  }
  return 0;
}

}  // namespace access_log
