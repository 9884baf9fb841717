#include "examples/access_log/setup.h"

#include <fmt/format.h>

#include <cstdio>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/process.h"

namespace access_log {

std::string default_master() { return sluice::core_count() > 1 ? "local[*]" : "local[2]"; }

TemporaryDirectory::TemporaryDirectory(sluice::Runtime& runtime)
    : runtime_(runtime),
      path_(
          fmt::format("{}/access_log-{:016x}", sluice::environment("TMPDIR").value_or("/tmp"), runtime.random_seed())) {
  runtime_.files().make_directories(path_);
}

TemporaryDirectory::~TemporaryDirectory() {
  try {
    runtime_.files().remove_all(path_);
  } catch (...) {
    fmt::print(stderr, "access_log: {} is left over: {}\n", path_, sluice::current_exception_text());
  }
}

}  // namespace access_log
