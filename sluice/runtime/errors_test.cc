#include "sluice/runtime/errors.h"

#include <gtest/gtest.h>

#include <set>

namespace sluice {
namespace {

TEST(Errors, AMessageNamesCodeOperationPlaceReasonAndRemedy) {
  const Error error(Code::no_output, {.why = "nothing was asked for", .operation = "hits", .where = Place("a.cc", 7)});
  EXPECT_STREQ(error.what(),
               "SLU-101 no_output: the stream has no output operation, so there is nothing to run\n"
               "  operation: hits\n"
               "  at: a.cc:7\n"
               "  why: nothing was asked for\n"
               "  mend: add an output such as foreach_rdd, print or save_as_text_files before start()");
}

TEST(Errors, APartThatIsMissingHasNoLine) {
  EXPECT_STREQ(Error(Code::context_not_started, {}).what(),
               "SLU-112 context_not_started: the context has not been started\n  mend: call start() first");
}

TEST(Errors, ANestedFailureIsIndented) {
  const Error inner(Code::context_not_started, {.operation = "inner"});
  const Error outer(Code::output_failed, {.why = inner.what()});
  EXPECT_NE(std::string(outer.what())
                .find("  why: SLU-112 context_not_started: the context has not been started\n"
                      "    operation: inner\n"
                      "    mend: call start() first\n"
                      "  mend: "),
            std::string::npos)
      << outer.what();
}

TEST(Errors, AnErrorKeepsItsCodeAndDetails) {
  const Error error(Code::io_failed, {.why = "disk full"});
  EXPECT_EQ(error.code(), Code::io_failed);
  EXPECT_EQ(error.details().why, "disk full");
}

TEST(Errors, EveryCodeFindsItsOwnRow) {
  std::set<std::string_view> names;
  const auto expect_row = [&](int number, Code code, std::string_view name) {
    EXPECT_EQ(error_info(code).name, name);
    EXPECT_EQ(static_cast<int>(error_info(code).code), number);
    EXPECT_TRUE(names.insert(name).second) << name;
  };
#define SLUICE_EXPECT_ROW(number, entry, sentence, remedy) expect_row(number, Code::entry, #entry);
  SLUICE_ERRORS(SLUICE_EXPECT_ROW)
#undef SLUICE_EXPECT_ROW
}

TEST(Errors, TheTextOfAnExceptionIsItsWhat) {
  try {
    throw std::runtime_error("boom");
  } catch (...) {
    EXPECT_EQ(current_exception_text(), "boom");
  }
}

TEST(Errors, TheTextOfAForeignExceptionIsUnknown) {
  try {
    throw 42;
  } catch (...) {
    EXPECT_EQ(current_exception_text(), "unknown exception");
  }
}

TEST(ErrorsDeathTest, ABrokenInvariantEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(SLUICE_ASSERT(1 + 1 == 3), "broken invariant: 1 \\+ 1 == 3");
}

}  // namespace
}  // namespace sluice
