// expect: sluice: this type cannot be encoded: it is or holds a pointer
// expect: specialise sluice::codec<T>
#include "sluice/core/codec.h"

struct Line {
  const char* text;
  int length;
};

void f(sluice::Encoder& out) { sluice::encode(Line{"GET", 3}, out); }
