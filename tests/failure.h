// Why a call fails, for tests that look at the words.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <string>

#include "sluice/testkit/thrown.h"

namespace sluice::testing {

/// Why `call` fails, which it must, with that code.
inline std::string failure(Code code, const std::function<void()>& call) {
  const std::optional<Error> error = error_of(call);
  if (!error.has_value()) {
    ADD_FAILURE() << "no error was thrown";
    return "";
  }
  EXPECT_EQ(error->code(), code) << error->what();
  return error->details().why;
}

}  // namespace sluice::testing
