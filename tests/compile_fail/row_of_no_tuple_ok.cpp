// expect-ok
#include <tuple>

#include "sluice/connect/sqlite.h"
#include "sluice/sluice.h"

void f(const sluice::DStream<int>& stream) {
  stream.save_to(
      sluice::sqlite_sink<int>("a.db", {.name = "t", .columns = {"a", "b"}}, [](int x) { return std::tuple(x, x); }));
}
