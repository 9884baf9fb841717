// Which database keyed state may lie in. Only programs that ask for one refer to it, so that the others do not load its
// library (RocksDB's takes 8 ms and 8 MB when a process starts).
#pragma once

#include <memory>

#include "sluice/stream/state_database.h"

namespace sluice::detail {

/// RocksDB; see OpenDatabase. Errors: SLU-120 where this build has no RocksDB.
std::unique_ptr<StateDatabase> open_rocksdb(const DatabasePlace& place);

}  // namespace sluice::detail
