// expect-ok
#include "sluice/core/codec.h"

struct Hit {
  std::string_view path;
  char method[8];
  int status;
};

static_assert(sluice::has_views_v<Hit>);
const sluice::TypeOps& f() { return sluice::type_ops<std::pair<std::string_view, std::vector<Hit>>>(); }
