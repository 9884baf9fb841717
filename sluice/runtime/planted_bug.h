// Bugs that other engines have shipped, planted on purpose: tests must notice each of them. `./dev kill --bug NAME`
// builds with them and chooses one; other builds have none, and nothing of this in their code. docs/reliability.md has
// the list.
#pragma once

#include <string_view>

namespace sluice::detail {

#ifdef SLUICE_PLANTED_BUGS
/// True for the bug that the environment names: SLUICE_BUG=NAME.
bool planted_bug(std::string_view name);
#else
constexpr bool planted_bug(std::string_view) { return false; }
#endif

}  // namespace sluice::detail
