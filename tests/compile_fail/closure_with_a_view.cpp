// expect: sluice: with(...) keeps its values for as long as the operator lives
// expect: pass a std::string
#include <string_view>

#include "sluice/sluice.h"

void f(const sluice::DStream<int>& stream, std::string_view word) {
  stream.map(sluice::with(word, [](std::string_view w, int x) { return static_cast<int>(w.size()) + x; }));
}
