// The lineage graph: what each RDD is made from.
//
// Six kinds of node, and a new operator is a kernel in one of them: source, narrow, shuffled, union, zip, cached.
// Nodes are immutable; what they leave in stores (shuffle output, cached partitions) goes away with them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <variant>
#include <vector>

#include "sluice/core/program.h"
#include "sluice/core/stores.h"

namespace sluice::detail {

class Engine;
struct Node;
using NodePtr = std::shared_ptr<const Node>;

/// Output of a shuffle in the stores of an engine, removed with the node.
struct ShuffleLease {
  ShuffleLease(std::shared_ptr<Engine> engine, std::uint64_t shuffle);
  ~ShuffleLease();
  std::shared_ptr<Engine> engine;
  std::uint64_t id;
};

/// Partitions of a cached RDD in the block store, removed with the node.
struct BlockLease {
  BlockLease(std::shared_ptr<Engine> engine, std::uint64_t owner);
  ~BlockLease();
  std::shared_ptr<Engine> engine;
  std::uint64_t owner;
};

struct SourceBody {
  /// One for all partitions, or one each (then a task carries only its own).
  std::vector<Shipped<Source>> sources;
  /// Whatever must live as long as the node (blocks of received data).
  std::shared_ptr<const void> holds;
  const Shipped<Source>& of(std::size_t partition) const { return sources[sources.size() == 1 ? 0 : partition]; }
};
struct NarrowBody {
  Shipped<Kernel> kernel;
};
struct ShuffledBody {
  Shipped<ShuffleKernel> kernel;
  std::shared_ptr<ShuffleLease> lease;
};
struct UnionBody {
  /// append: partitions of the parents one after the other. align: partition p of all parents together. coalesce:
  /// neighbouring partitions of one parent together. choose: those of one parent that are `chosen`.
  enum class How { append, align, coalesce, choose } how = How::append;
  std::vector<std::size_t> chosen{};
};
struct ZipBody {
  Shipped<ZipKernel> kernel;
  /// See RunZip.
  Shipped<StateMaker> state;
};
struct CachedBody {
  std::shared_ptr<BlockLease> lease;
  Keep level = Keep::memory;
  /// See WriteBlock.
  bool twice = false;
};

struct Node {
  OperatorInfoPtr info;
  const TypeOps* type = nullptr;
  std::vector<NodePtr> parents;
  std::size_t partitions = 0;
  /// Records are pairs and lie in the partition of their key's hash.
  bool by_key = false;
  /// For operators with state: the batch time they belong to.
  std::int64_t batch = 0;
  std::variant<SourceBody, NarrowBody, ShuffledBody, UnionBody, ZipBody, CachedBody> body;
};

/// Which (parent, partition)s make up partition `partition` of a union node, in order.
std::vector<std::pair<std::size_t, std::size_t>> union_inputs(const Node& node, std::size_t partition);

}  // namespace sluice::detail
