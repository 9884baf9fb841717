// expect: sluice: this type cannot be encoded: it is or holds a std::span
// expect: Hold a std::vector or std::array
#include "sluice/core/codec.h"

struct Samples {
  std::span<const float> values;
};

void f(const Samples& samples, sluice::Encoder& out) { sluice::encode(samples, out); }
