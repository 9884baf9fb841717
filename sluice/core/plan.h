// The planner: from targets and the lineage graph to tasks, a round at a time.
#pragma once

#include <cstddef>
#include <set>
#include <vector>

#include "sluice/core/engine.h"

namespace sluice::detail {

/// Tasks that can run now, at the same time.
struct Round {
  std::vector<TaskProgram> tasks;
  /// Targets whose records the tasks collect.
  std::vector<std::size_t> targets;
};

/// The next round for those targets that are not `done`. Shuffles that are complete, and cached partitions that are
/// there, are not made again. Cached partitions in `lost` are computed and not cached again: what has pushed them out
/// once would do so again. Never empty while a target is not done.
Round plan_round(const std::vector<NodePtr>& targets, const std::vector<bool>& done, ShuffleStore& shuffles,
                 BlockStore& blocks, const std::set<BlockId>& lost = {});

}  // namespace sluice::detail
