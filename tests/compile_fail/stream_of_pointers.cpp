// expect: sluice: this type cannot be encoded: it is or holds a pointer
#include "sluice/sluice.h"

struct Line {
  const char* text;
  int length;
};

void f(const sluice::DStream<int>& stream) {
  stream.map([](int x) { return Line{"x", x}; });
}
