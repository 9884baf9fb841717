#include "sluice/runtime/planted_bug.h"

#ifdef SLUICE_PLANTED_BUGS
#include <optional>
#include <string>

#include "sluice/runtime/process.h"

namespace sluice::detail {

bool planted_bug(std::string_view name) {
  static const std::string chosen = environment("SLUICE_BUG").value_or("");
  return chosen == name;
}

}  // namespace sluice::detail
#endif
