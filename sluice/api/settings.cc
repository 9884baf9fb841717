#include "sluice/api/settings.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "sluice/cluster/manager.h"
#include "sluice/cluster/network.h"
#include "sluice/runtime/errors.h"
#include "sluice/runtime/process.h"

namespace sluice {
namespace {

constexpr std::array known{"master",
                           "listen",
                           "announce",
                           "certs",
                           "executor",
                           "cores",
                           "executor-grace",
                           "app",
                           "partitions",
                           "memory",
                           "spill-directory",
                           "shuffle-compression",
                           "hash-seed",
                           "task-tries",
                           "encode-tasks",
                           "check-views",
                           "executor-timeout",
                           "executor-wait",
                           "state-copies",
                           "block-copies",
                           "dynamic-allocation",
                           "scaling-interval",
                           "speculation",
                           "speculation-min",
                           "scaling-up",
                           "scaling-down",
                           "executors-min",
                           "executors-max",
                           "checkpoint",
                           "batch",
                           "block-interval",
                           "receiver-memory",
                           "checkpoint-interval",
                           "wal",
                           "keep-batches",
                           "missed",
                           "output-tries",
                           "failed-output",
                           "drop-state",
                           "accept-replay-with-new-code",
                           "dry-run",
                           "replay"};

bool is_known(std::string_view name) { return std::find(known.begin(), known.end(), name) != known.end(); }

/// Those that mean true when no value is given.
bool is_flag(std::string_view name) {
  constexpr std::array flags{"dynamic-allocation",          "speculation", "encode-tasks", "check-views",
                             "accept-replay-with-new-code", "dry-run"};
  return std::find(flags.begin(), flags.end(), name) != flags.end();
}

struct CommandLine {
  std::mutex mutex;
  std::map<std::string, std::string, std::less<>> values;
};
CommandLine& command_line() {
  static CommandLine& instance = *new CommandLine;
  return instance;
}

std::string environment_name(std::string_view name) {
  std::string upper = "SLUICE_";
  for (const char c : name) upper += c == '-' ? '_' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return upper;
}

Error bad_setting(std::string_view name, const std::string& why) {
  return Error(Code::bad_setting, {.why = "--sluice." + std::string(name) + ": " + why});
}

}  // namespace

namespace {

/// An executor of the driver at that address; the settings that it has are those of an executor.
[[noreturn]] void run_executor(const std::string& driver) {
  try {
    detail::SettingsReader settings;
    detail::ExecutorOptions options;
    options.driver = driver;
    options.listen = settings.text("listen", "", "0.0.0.0:0");
    options.announce = settings.text("announce", "", "");
    options.cores = static_cast<std::uint32_t>(settings.number("cores", 0, core_count()));
    options.memory_bytes = settings.number("memory", 0, std::uint64_t{1} << 30);
    options.spill_directory = settings.text("spill-directory", "", "/tmp");
    options.compression = detail::compression_of(settings.text("shuffle-compression", "", "none"));
    const std::string certs = settings.text("certs", "", "");
    if (certs.empty()) throw bad_setting("certs", "an executor needs a directory that `sluice certs` has made");
    if (options.cores < 1 || options.cores > 4096) throw bad_setting("cores", "from 1 to 4096");
    const std::chrono::seconds grace(settings.number("executor-grace", 0, 60));
    detail::run_started_executor(detail::secured_network(system_runtime(), certs), options, grace);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::exit(2);  // tidy: allow banned: nothing has begun, and this is how command lines are refused
  }
}

}  // namespace

void init(int& argc, char** argv) {
  detail::run_executor_if_child(argc, argv);
  CommandLine& line = command_line();
  std::unique_lock lock(line.mutex);
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (!argument.starts_with("--sluice.")) {
      argv[kept++] = argv[i];
      continue;
    }
    const std::size_t equals = argument.find('=');
    const std::string_view name = argument.substr(9, equals == std::string_view::npos ? equals : equals - 9);
    const bool has_value = equals != std::string_view::npos || is_flag(name);
    if (!is_known(name) || !has_value) {
      const Error error = bad_setting(name, is_known(name) ? "no value; write --sluice.NAME=VALUE" : "no such setting");
      std::fprintf(stderr, "%s\n", error.what());
      std::exit(2);  // tidy: allow banned: nothing has begun, and this is how command lines are refused
    }
    std::string& value = line.values[std::string(name)];
    const std::string_view given = equals == std::string_view::npos ? "true" : argument.substr(equals + 1);
    // A list may be given in several arguments.
    if (name == "drop-state" && !value.empty()) {
      value.append(",").append(given);
    } else {
      value = given;
    }
  }
  argv[kept] = nullptr;
  argc = kept;
  const auto driver = line.values.find("executor");
  if (driver == line.values.end()) return;
  lock.unlock();
  run_executor(driver->second);
}

namespace detail {

std::optional<Setting> outside_setting(std::string_view name) {
  SLUICE_ASSERT(is_known(name));
  {
    CommandLine& line = command_line();
    const std::lock_guard lock(line.mutex);
    const auto found = line.values.find(name);
    if (found != line.values.end()) return Setting{std::string(name), found->second, "command line"};
  }
  if (auto value = environment(environment_name(name))) return Setting{std::string(name), *value, "environment"};
  return std::nullopt;
}

std::string SettingsReader::text(std::string_view name, const std::string& in_code, const std::string& otherwise) {
  Setting setting{std::string(name), in_code.empty() ? otherwise : in_code, in_code.empty() ? "default" : "code"};
  if (auto outside = outside_setting(name)) setting = *outside;
  in_force_.push_back(setting);
  return setting.value;
}

std::uint64_t SettingsReader::number(std::string_view name, std::uint64_t in_code, std::uint64_t otherwise) {
  const std::string value = text(name, in_code == 0 ? "" : std::to_string(in_code), std::to_string(otherwise));
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  const std::string_view unit(end, static_cast<std::size_t>(value.data() + value.size() - end));
  const unsigned shift = unit == "K" ? 10 : unit == "M" ? 20 : unit == "G" ? 30 : unit.empty() ? 0 : 64;
  if (error != std::errc() || shift == 64 || (number << shift) >> shift != number) {
    throw bad_setting(name, "\"" + value + "\" is not a number (K, M and G may follow it)");
  }
  return number << shift;
}

bool SettingsReader::flag(std::string_view name, bool in_code) {
  const std::string value = text(name, in_code ? "true" : "", "false");
  if (value == "true" || value == "1") return true;
  if (value == "false" || value == "0") return false;
  throw bad_setting(name, "\"" + value + "\" is neither true nor false");
}

}  // namespace detail
}  // namespace sluice
