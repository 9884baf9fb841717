// An error's code is one of the table: a bare number is refused.
// expect: cannot convert 'int' to 'sluice::Code'
#include "sluice/runtime/errors.h"

const sluice::ErrorInfo& f() { return sluice::error_info(101); }
