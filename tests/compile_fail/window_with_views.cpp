// expect: sluice: the values of a window with an inverse outlive their batch
#include <string_view>
#include <utility>

#include "sluice/sluice.h"

std::string_view longer(std::string_view a, std::string_view b) { return a.size() < b.size() ? b : a; }

void f(const sluice::DStream<std::pair<int, std::string_view>>& stream) {
  stream.reduce_by_key_and_window(longer, longer, {.length = std::chrono::seconds(2)});
}
