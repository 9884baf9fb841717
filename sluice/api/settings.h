// Settings: from the command line, the environment or the code, each with its origin.
//
//     ./hits --sluice.master=local[4] --sluice.partitions=8
//     SLUICE_MASTER=local[4] ./hits
//
// The command line wins over the environment, which wins over the code. docs/settings.md lists them all.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

/// Must be the first statement of `main`. Takes `--sluice.NAME=VALUE` out of argv (argc shrinks) and keeps them for all
/// contexts made later. In a process started to run tasks (by a local-cluster, or with --sluice.executor=HOST:PORT or
/// @FILE, docs/cluster.md) it runs them and never returns. Optional for local masters that are set in code.
/// Errors: prints SLU-114 and ends with status 2 for a setting that does not exist.
void init(int& argc, char** argv);

/// A setting as it is in force.
struct Setting {
  std::string name;
  std::string value;
  /// "command line", "environment", "code" or "default".
  std::string origin;
};

namespace detail {

/// Value given from outside the code, or nullopt. `name` without "sluice.".
std::optional<Setting> outside_setting(std::string_view name);

/// Picks the value in force and remembers it for `settings_in_force`. SLU-114 when it cannot be read.
class SettingsReader {
 public:
  std::string text(std::string_view name, const std::string& in_code, const std::string& otherwise);
  std::uint64_t number(std::string_view name, std::uint64_t in_code, std::uint64_t otherwise);
  bool flag(std::string_view name, bool in_code);
  const std::vector<Setting>& in_force() const { return in_force_; }

 private:
  std::vector<Setting> in_force_;
};

}  // namespace detail
}  // namespace sluice
