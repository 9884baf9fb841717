// expect: sluice: this function runs in tasks, perhaps in another process, and captures by reference
// expect: Capture by value
#include "sluice/sluice.h"

void f(const sluice::DStream<int>& stream) {
  int offset = 1;
  stream.map([&offset](int x) { return x + offset; });
}
