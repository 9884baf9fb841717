// The planner: from targets and the lineage graph to rounds of tasks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <set>
#include <vector>

#include "sluice/core/engine.h"

namespace sluice::detail {

/// What tasks are for: a map partition of a shuffle, or a partition of a target.
struct Product {
  /// 0: of a target. No shuffle has this id.
  std::uint64_t shuffle = 0;
  std::uint32_t target = 0;
  std::uint32_t partition = 0;
  friend auto operator<=>(const Product&, const Product&) = default;
};
using Products = std::set<Product>;

/// A job between two plans.
struct Job {
  explicit Job(const std::vector<NodePtr>& of);

  /// True when the target has neither failed nor all its partitions.
  bool is_open(std::size_t target) const;
  /// True when any target is.
  bool is_open() const;
  /// It has failed: nothing is done for it any more. Only the first failure counts.
  void fail(std::size_t target, const std::exception_ptr& error);
  /// All that are open fail.
  void fail_all(const std::exception_ptr& error);

  const std::vector<NodePtr>& targets;
  /// A partition that is not there yet is nullptr.
  std::vector<JobResult> results;
  /// Cached partitions that were gone when a task came to read them. They are computed and not cached again: what has
  /// pushed them out once would do so again.
  std::set<BlockId> lost;
};

/// The next rounds for the targets that are open: tasks that make what is missing of the targets and of the shuffles
/// they need. Products that are there already, and cached partitions, are not made again. Every round gets the job on,
/// even where it has no task: a shuffle of nothing is complete then.
///
/// What a round needs, and rounds before it are to make, counts as made; so these may be the job's last rounds. They
/// are not where a cached partition, or state, would be wanted again that one of them makes or changes: then the next
/// plan goes on, when it is there.
///
/// Errors: SLU-211 a cached partition is needed that is lost for good (BlockStore).
Rounds plan_rounds(const Job& job, ShuffleStore& shuffles, BlockStore& blocks);

/// One round, in which there are tasks for no others than these products, perhaps none.
Rounds plan_only(const Products& products, const Job& job, ShuffleStore& shuffles, BlockStore& blocks);

/// The product an output of a task stands for; those of its blocks are made by the way and stand for none.
std::optional<Product> product_of(const TaskOutput& output);

/// Open targets that cannot be made without the product, in order.
std::vector<std::size_t> needed_by(const Product& product, const Job& job, ShuffleStore& shuffles, BlockStore& blocks);

}  // namespace sluice::detail
