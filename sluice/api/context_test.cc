#include "sluice/api/context.h"

#include <gtest/gtest.h>

#include <string>

namespace sluice {
namespace {

std::string refusal(const std::string& master) {
  try {
    const Context ctx({.master = master});
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::bad_setting) << error.what();
    return error.details().why;
  }
}

TEST(Masters, ThatCannotBeUnderstoodAreRefused) {
  for (const char* master : {"", "local[2]"}) EXPECT_EQ(refusal(master), "");
  for (const char* master : {"locale", "local[0]", "local[2,2]", "local-cluster[2]", "cluster", "ray", "ray://",
                             "ray://h", "ray://h:", "ray://:1", "ray://h:one", "ray://[2]", "ray://h:1[", "ray://h:1[2",
                             "ray://h:1[]", "ray://h:1[0]", "ray://h:1[2,0]", "ray://h:1[1,2,3]", "ray://h:1[2]x"}) {
    EXPECT_NE(refusal(master).find(std::string("\"") + master + "\" is none of"), std::string::npos) << master;
  }
}

TEST(Masters, ThatStartNoExecutorsHaveNoDynamicAllocation) {
  for (const char* master : {"local[2]", "cluster[2]"}) {
    try {
      const Context ctx({.master = master, .dynamic_allocation = true, .certs = "/nowhere"});
      FAIL() << master;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::bad_setting) << error.what();
    }
  }
}

}  // namespace
}  // namespace sluice
