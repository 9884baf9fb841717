// The command `sluice submit`: programs on a Ray cluster.
#pragma once

#include <string>
#include <vector>

namespace sluice_cmd {

/// Goes on as `sluice-ray submit ARGUMENTS`; with `status`, `logs`, `stop` or `list` first, as that command of it
/// (docs/ray.md). Does not return. Errors: SLU-413 there is no sluice-ray.
[[noreturn]] void submit(std::vector<std::string> arguments);

}  // namespace sluice_cmd
