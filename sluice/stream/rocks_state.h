// Keyed state in RocksDB.
#pragma once

#include <memory>

#include "sluice/stream/state_database.h"

namespace sluice::detail {

/// See OpenDatabase.
std::unique_ptr<StateDatabase> open_rocks_state(const DatabasePlace& place);

}  // namespace sluice::detail
