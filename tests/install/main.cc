// What a program outside the repository sees of an installed sluice: headers below sluice/, and a library to link.
#include <cstdio>

#if __has_include(<sluice/sluice.h>)
#include <sluice/sluice.h>
#endif
#include <sluice/runtime/errors.h>

int main() {
  const sluice::ErrorInfo& info = sluice::error_info(sluice::Code::no_output);
  std::printf("SLU-%d %.*s\n", static_cast<int>(info.code), static_cast<int>(info.name.size()), info.name.data());
  return info.name == "no_output" ? 0 : 1;
}
