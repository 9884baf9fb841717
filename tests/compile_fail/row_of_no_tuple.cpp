// expect: sluice: this function makes a row of a record, and a row is a std::tuple of numbers, texts
#include <utility>

#include "sluice/connect/sqlite.h"
#include "sluice/sluice.h"

void f(const sluice::DStream<int>& stream) {
  stream.save_to(
      sluice::sqlite_sink<int>("a.db", {.name = "t", .columns = {"a", "b"}}, [](int x) { return std::pair(x, x); }));
}
