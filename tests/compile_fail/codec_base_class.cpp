// expect: sluice: this type cannot be encoded: it is a struct with a base class
#include "sluice/core/codec.h"

struct Event {
  long time;
};
struct Click : Event {
  int button;
};

void f(const Click& click, sluice::Encoder& out) { sluice::encode(click, out); }
