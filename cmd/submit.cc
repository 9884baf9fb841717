#include "cmd/submit.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "sluice/cluster/ray_manager.h"
#include "sluice/runtime/errors.h"
#include "sluice/runtime/process.h"

namespace sluice_cmd {

void submit(std::vector<std::string> arguments) {
  constexpr std::array<std::string_view, 4> others = {"status", "logs", "stop", "list"};
  const bool is_other = !arguments.empty() && std::find(others.begin(), others.end(), arguments[0]) != others.end();
  if (!is_other) arguments.insert(arguments.begin(), "submit");
  try {
    sluice::become_program(sluice::detail::ray_command, arguments);
  } catch (const sluice::Error& error) {
    throw sluice::Error(error.code(), {.why = error.details().why + "; " + sluice::detail::ray_command_comes});
  }
}

}  // namespace sluice_cmd
