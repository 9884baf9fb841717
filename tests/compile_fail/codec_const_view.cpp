// expect: sluice: this type cannot be encoded: it holds a const field with a view in it
#include "sluice/core/codec.h"

struct Row {
  const std::string_view name;
};

void f(Row& row, sluice::Encoder& out) { sluice::encode(row, out); }
