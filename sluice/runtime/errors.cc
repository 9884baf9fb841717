#include "sluice/runtime/errors.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace sluice {
namespace {

constexpr std::array error_table = {
#define SLUICE_ERROR_ROW(number, name, sentence, remedy) ErrorInfo{Code::name, #name, sentence, remedy},
    SLUICE_ERRORS(SLUICE_ERROR_ROW)
#undef SLUICE_ERROR_ROW
};

// A nested failure has lines of its own; two more blanks before each keep its parts apart from those of the outer one.
void append_indented(std::string& text, std::string_view part) {
  for (char c : part) {
    text += c;
    if (c == '\n') text += "  ";
  }
}

void append_part(std::string& text, std::string_view label, std::string_view part) {
  if (part.empty()) return;
  text += "\n  ";
  text += label;
  text += ": ";
  append_indented(text, part);
}

std::string message(Code code, const ErrorDetails& details) {
  const ErrorInfo& info = error_info(code);
  std::string text = "SLU-" + std::to_string(static_cast<int>(code)) + " ";
  text += info.name;
  text += ": ";
  text += info.sentence;
  append_part(text, "operation", details.operation);
  if (details.where.line() != 0) {
    append_part(text, "at", std::string(details.where.file_name()) + ":" + std::to_string(details.where.line()));
  }
  append_part(text, "why", details.why);
  append_part(text, "mend", info.remedy);
  return text;
}

}  // namespace

const ErrorInfo& error_info(Code code) {
  for (const ErrorInfo& info : error_table) {
    if (info.code == code) return info;
  }
  detail::assert_failed("the code is in the table of errors", std::source_location::current());
}

Error::Error(Code code, ErrorDetails details)
    : std::runtime_error(message(code, details)), code_(code), details_(std::move(details)) {}

std::string current_exception_text() {
  // A bare `throw` without an exception would end the process; an error path must not.
  if (!std::current_exception()) return "no exception";
  try {
    throw;
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "unknown exception";
  }
}

namespace detail {

void assert_failed(const char* condition, std::source_location where) {
  std::fprintf(stderr, "sluice: broken invariant: %s\n  at: %s:%u in %s\n", condition, where.file_name(),
               static_cast<unsigned>(where.line()), where.function_name());
  std::abort();
}

}  // namespace detail
}  // namespace sluice
