// expect: captures something that is not plain bytes
#include "sluice/sluice.h"

void f(const sluice::Rdd<int>& rdd) {
  rdd.map([rdd](int x) { return x + static_cast<int>(rdd.count()); });
}
