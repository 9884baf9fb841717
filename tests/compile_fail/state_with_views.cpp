// expect: sluice: state outlives its batch: use std::string, not std::string_view, in it
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "sluice/sluice.h"

void f(const sluice::DStream<std::pair<int, std::string_view>>& stream) {
  stream.update_state_by_key([](std::span<const std::string_view> now, std::optional<std::string_view> state) {
    return now.empty() ? state : now[0];
  });
}
