#include "examples/access_log/options.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <filesystem>

namespace access_log {
namespace {

constexpr int usage_status = 2;

constexpr const char* description =
    "Figures of a web server's access log (Common or Combined Log Format): hits, bytes, statuses, top paths and\n"
    "clients, of each batch, of a sliding window and since the start. Malformed lines are counted, never fatal.\n";
constexpr const char* examples =
    "\nExamples:\n"
    "  access_log --demo                                   watch a log that is made up while you look\n"
    "  access_log --follow /var/log/nginx/access.log       watch a server's log, as tail -F does\n"
    "  access_log --input access.log --once --json         one report of a file\n"
    "  zcat access.log.*.gz | access_log --input - --once  the same of what comes through a pipe\n"
    "\nSettings of the engine go with --sluice.NAME=VALUE, for example --sluice.master=local[4].\n";

// Says what the input is by looking at it. An error text when it is nothing.
std::string find_input(const std::string& input, Options& options) {
  options.path = input;
  std::error_code error;
  const auto status = std::filesystem::status(input, error);
  if (input == "-") {
    options.input = InputKind::standard_input;
  } else if (std::filesystem::is_directory(status)) {
    options.input = InputKind::directory;
  } else if (std::filesystem::exists(status)) {
    options.input = InputKind::file;
  } else if (endpoint_of(input)) {
    options.input = InputKind::socket;
  } else {
    return "--input " + input + ": no such file or directory, and not host:port";
  }
  if (options.once && options.input == InputKind::socket) return "--once: a socket has no end; give a file or -";
  return {};
}

std::string check(const std::string& input, const std::string& follow, Options& options) {
  if (options.window.count() % options.batch.count() != 0) return "--window must be a multiple of --batch";
  if (options.demo) {
    if (!input.empty() || options.once || options.json)
      return "--demo goes with --follow, --seconds, --batch and --window";
    options.path = follow;
    return {};
  }
  if (input.empty() == follow.empty()) return "give one of --input, --follow and --demo";
  if (!input.empty()) return find_input(input, options);
  if (options.once) return "--once: a log that is followed has no end; use --input";
  options.input = InputKind::file;
  options.path = follow;
  options.from_end = true;
  return {};
}

}  // namespace

std::optional<Endpoint> endpoint_of(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  if (colon == 0 || colon == std::string::npos) return std::nullopt;
  Endpoint endpoint{text.substr(0, colon), 0};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, endpoint.port);
  if (error != std::errc() || stop != end || endpoint.port == 0) return std::nullopt;
  return endpoint;
}

CommandLine read_command_line(int argc, char** argv) {
  CommandLine line;
  Options& options = line.options;
  std::string input;
  std::string follow;
  std::int64_t seconds = 0;
  std::int64_t batch_ms = options.batch.count();
  std::int64_t window_s = options.window.count() / 1000;
  CLI::App app(description, "access_log");
  app.footer(examples);
  app.add_option("--input", input,
                 "A file (read from its beginning, then followed), a directory, host:port, or - for "
                 "standard input")
      ->option_text("FILE|DIR|host:port|-");
  app.add_option("--follow", follow, "What is appended to this file from now on, over rotations")->option_text("FILE");
  app.add_flag("--once", options.once, "Stop at the end of --input and print one report of all of it");
  app.add_flag("--json", options.json, "JSON: one object with --once, else one a batch");
  app.add_flag("--demo", options.demo, "Watch a made-up log, or the one of --follow from its beginning");
  const auto* run_time = app.add_option("--seconds", seconds, "Stop after this time")
                             ->option_text("N")
                             ->check(CLI::Range(std::int64_t{1}, std::int64_t{1'000'000'000}));
  app.add_option("--batch", batch_ms, "Batch interval in milliseconds (1000; demo 500)")
      ->option_text("MS")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{3'600'000}));
  app.add_option("--window", window_s, "Length of the window in seconds (30), a multiple of the batch interval")
      ->option_text("S")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{86'400}));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    line.exit_status = app.exit(error) == 0 ? 0 : usage_status;
    return line;
  }
  if (run_time->count() != 0) options.run_time = std::chrono::seconds(seconds);
  // A demo shows more of what goes on when it is drawn twice a second.
  options.batch = std::chrono::milliseconds(options.demo && app["--batch"]->count() == 0 ? 500 : batch_ms);
  options.window = std::chrono::seconds(window_s);
  const std::string wrong = check(input, follow, options);
  if (!wrong.empty()) {
    std::fprintf(stderr, "access_log: %s\nRun with --help for more information.\n", wrong.c_str());
    line.exit_status = usage_status;
  }
  return line;
}

}  // namespace access_log
