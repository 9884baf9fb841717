#include "sluice/runtime/clock.h"

#include <array>
#include <cstdint>
#include <string_view>

namespace sluice {

std::string to_string(Duration duration) {
  struct Unit {
    std::string_view name;
    std::uint64_t nanoseconds;
  };
  // Ends at seconds: minutes and hours would need more than three decimals to say the same.
  constexpr std::array<Unit, 4> units = {{{"s", 1'000'000'000}, {"ms", 1'000'000}, {"us", 1'000}, {"ns", 1}}};

  if (duration == Duration::zero()) return "0 s";
  const bool negative = duration < Duration::zero();
  // Unsigned, because the most negative count has no positive twin.
  const auto count = static_cast<std::uint64_t>(duration.count());
  const std::uint64_t magnitude = negative ? 0 - count : count;

  for (const Unit& unit : units) {
    const std::uint64_t step = unit.nanoseconds >= 1'000 ? unit.nanoseconds / 1'000 : 1;
    const std::uint64_t per_unit = unit.nanoseconds / step;
    // Rounded before the unit is chosen, so that 999.9999 ms is "1 s" and never "1000 ms".
    const std::uint64_t steps = magnitude / step + (magnitude % step >= step - step / 2 ? 1 : 0);
    if (steps < per_unit) continue;
    std::string text = (negative ? "-" : "") + std::to_string(steps / per_unit);
    const std::uint64_t fraction = steps % per_unit;
    if (fraction != 0) {
      std::string digits = std::to_string(per_unit + fraction).substr(1);
      digits.erase(digits.find_last_not_of('0') + 1);
      text += "." + digits;
    }
    return text.append(" ").append(unit.name);
  }
  return "0 s";
}

}  // namespace sluice
