// The command line of access_log; `access_log --help` and docs/access_log.md describe it.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace access_log {

/// Where the lines come from.
enum class InputKind : std::uint8_t { demo, file, directory, socket, standard_input };

struct Options {
  InputKind input = InputKind::demo;
  /// File, directory, "host:port" or "-"; of a demo: empty, or the log it follows.
  std::string path;
  /// Only what is appended from now on, as `tail -F` does.
  bool from_end = false;
  /// Stop at the end of the input, and print one report of all of it.
  bool once = false;
  bool json = false;
  bool demo = false;
  std::optional<std::chrono::seconds> run_time;
  std::chrono::milliseconds batch{1000};
  std::chrono::milliseconds window{30'000};
};

/// "host:port", or nothing when it is none.
struct Endpoint {
  std::string host;
  std::uint16_t port = 0;
};
std::optional<Endpoint> endpoint_of(const std::string& text);

/// Reads the command line. Prints help or what is wrong and gives the exit status when there is nothing to run.
struct CommandLine {
  Options options;
  std::optional<int> exit_status;
};
CommandLine read_command_line(int argc, char** argv);

}  // namespace access_log
