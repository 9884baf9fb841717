// expect-ok
#include "sluice/runtime/errors.h"

const sluice::ErrorInfo& f() { return sluice::error_info(sluice::Code::no_output); }
