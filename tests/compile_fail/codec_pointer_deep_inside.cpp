// expect: sluice: this type cannot be encoded: it is or holds a pointer
#include "sluice/core/codec.h"

struct Model {};
struct Row {
  int id;
  std::vector<std::pair<int, std::optional<Model*>>> models;
};

std::vector<Row> f(sluice::Decoder& in) { return sluice::decode<std::vector<Row>>(in); }
