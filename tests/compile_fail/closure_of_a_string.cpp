// expect: sluice: this function runs in tasks, perhaps in another process, and captures something that is not plain
// expect: sluice::with(values..., function)
#include <string>

#include "sluice/sluice.h"

void f(const sluice::DStream<int>& stream) {
  std::string prefix = "x";
  stream.map([prefix](int x) { return static_cast<int>(prefix.size()) + x; });
}
