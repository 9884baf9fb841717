#include "sluice/runtime/kill_point.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <optional>
#include <string>
#include <utility>

#include "sluice/runtime/process.h"

namespace sluice {
namespace detail {

constinit std::atomic<bool> any_kill_point_armed{false};

namespace {

/// A place of the environment. Each pass counts once, whichever thread makes it.
struct ArmedPlace {
  ArmedPlace(std::string name_, std::uint64_t passes) : name(std::move(name_)), passes_left(passes) {}

  const std::string name;
  std::atomic<std::uint64_t> passes_left;
};

struct Armed {
  // A deque, since its elements cannot be moved.
  std::deque<ArmedPlace> places;
  std::function<void(std::string_view)> hook;
};

// Never destroyed: threads may pass places while the process ends.
Armed& armed() {
  static auto* const only = new Armed;
  return *only;
}

void log_kill(const std::string& name) {
  const std::optional<std::string> path = environment("SLUICE_KILL_LOG");
  if (!path.has_value()) return;
  const int file = ::open(path->c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  const std::string line = name + " " + std::to_string(process_id()) + "\n";
  if (file < 0 || ::write(file, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    std::fprintf(stderr, "sluice: SLUICE_KILL_LOG=%s: it cannot be written\n", path->c_str());
  }
}

void look_whether_armed() {
  any_kill_point_armed.store(!armed().places.empty() || armed().hook, std::memory_order_relaxed);
}

[[noreturn]] void refuse(const std::string& value) {
  std::fprintf(stderr, "sluice: SLUICE_KILL=%s: not NAME:COUNT[,NAME:COUNT...] with counts from 1\n", value.c_str());
  // A test that kills nothing would pass; and before main there is nobody to catch an exception.
  ::_exit(2);
}

std::optional<std::uint64_t> count_of(std::string_view text) {
  std::uint64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc() || end != text.data() + text.size() || count == 0) return std::nullopt;
  return count;
}

// Here and not where the system's runtime starts: the linker takes this file from its library for whoever names a place
// (`any_kill_point_armed` is defined here), and its initialisers come along. A program without this file has no place
// either. A place that another file's initialiser passes first is still inert.
[[maybe_unused]] const bool armed_at_start = (arm_kill_points_from_environment(), true);

}  // namespace

void at_kill_point(std::string_view owner, std::string_view place) {
  std::string name(owner);
  name += place;
  for (ArmedPlace& each : armed().places) {
    if (each.name != name || each.passes_left.fetch_sub(1, std::memory_order_relaxed) != 1) continue;
    log_kill(name);
    ::kill(::getpid(), SIGKILL);
    // Signals reach a process a moment later, and nothing of this thread may happen after the place.
    while (true) ::pause();
  }
  if (armed().hook) armed().hook(name);
}

}  // namespace detail

void set_kill_point_hook(std::function<void(std::string_view)> hook) {
  detail::armed().hook = std::move(hook);
  detail::look_whether_armed();
}

void arm_kill_points_from_environment() {
  detail::armed().places.clear();
  const std::string value = environment("SLUICE_KILL").value_or("");
  for (std::string_view rest = value; !rest.empty();) {
    const std::string_view one = rest.substr(0, rest.find(','));
    const std::size_t colon = one.rfind(':');
    const auto count = colon == std::string_view::npos ? std::nullopt : detail::count_of(one.substr(colon + 1));
    // A comma at the end is a mistake, too.
    if (!count || colon == 0 || one.size() + 1 == rest.size()) detail::refuse(value);
    detail::armed().places.emplace_back(std::string(one.substr(0, colon)), *count);
    rest.remove_prefix(std::min(one.size() + 1, rest.size()));
  }
  detail::look_whether_armed();
}

}  // namespace sluice
