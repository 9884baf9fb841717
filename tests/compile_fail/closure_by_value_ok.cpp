// expect-ok
#include <optional>
#include <span>
#include <string>

#include "sluice/sluice.h"

struct Reading {
  int sensor;
  double value;
};

void f(const sluice::DStream<int>& stream) {
  int offset = 1;
  stream.map([offset](int x) { return x + offset; });
  stream.map(
      sluice::with(std::string("prefix"), [](const std::string& prefix, int x) { return prefix + std::to_string(x); }));
  stream.map([](int x) { return Reading{x, 0.5}; });
  stream.map([](int x) { return std::pair(x, x); })
      .update_state_by_key([](std::span<const int>, std::optional<std::string> state) { return state; });
}
