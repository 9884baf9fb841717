// expect: sluice: this type cannot be encoded: it is or holds a reference
#include "sluice/core/codec.h"

void f(std::string& a, int& b, sluice::Encoder& out) { sluice::encode(std::tie(a, b), out); }
