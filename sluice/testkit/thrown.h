// What a call fails with, for tests of errors.
//
//     EXPECT_EQ(code_of([&] { stream.start(); }), Code::no_output);
#pragma once

#include <functional>
#include <optional>

#include "sluice/runtime/errors.h"

namespace sluice::testing {

/// The error that `call` throws; nothing when it returns.
inline std::optional<Error> error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

/// The code of the error that `call` throws; nothing when it returns.
inline std::optional<Code> code_of(const std::function<void()>& call) {
  const std::optional<Error> error = error_of(call);
  return error.has_value() ? std::optional(error->code()) : std::nullopt;
}

}  // namespace sluice::testing
