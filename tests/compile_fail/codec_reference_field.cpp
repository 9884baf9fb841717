// expect: sluice: this type cannot be encoded: it is or holds a reference
#include "sluice/core/codec.h"

struct Row {
  int& count;
};

void f(const Row& row, sluice::Encoder& out) { sluice::encode(row, out); }
