#include "sluice/stream/state_backend.h"

#ifdef SLUICE_HAS_ROCKSDB
#include "sluice/stream/rocks_state.h"
#else
#include "sluice/runtime/errors.h"
#endif

namespace sluice::detail {

#ifdef SLUICE_HAS_ROCKSDB
std::unique_ptr<StateDatabase> open_rocksdb(const DatabasePlace& place) { return open_rocks_state(place); }
#else
std::unique_ptr<StateDatabase> open_rocksdb(const DatabasePlace&) {
  throw Error(Code::no_state_backend, {.why = "this sluice was built where librocksdb-dev is not installed"});
}
#endif

}  // namespace sluice::detail
