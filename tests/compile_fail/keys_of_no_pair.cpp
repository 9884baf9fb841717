// expect: PairLike
#include <functional>

#include "sluice/sluice.h"

void f(const sluice::DStream<int>& stream) { stream.reduce_by_key(std::plus{}); }
