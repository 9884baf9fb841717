#include "sluice/stream/input.h"

namespace sluice::detail {

NodePtr make_input_node(const OperatorInfoPtr& info, const TypeOps& type, std::vector<Shipped<Source>> sources,
                        std::size_t partitions_max) {
  std::vector<NodePtr> nodes;
  const std::size_t partitions = sources.size();
  if (partitions > 0) nodes.push_back(make_source(info, type, std::move(sources), partitions));
  return make_input_node(info, type, std::move(nodes), partitions_max);
}

NodePtr make_input_node(const OperatorInfoPtr& info, const TypeOps& type, std::vector<NodePtr> nodes,
                        std::size_t partitions_max) {
  if (nodes.empty()) {
    // The type of an empty collection does not matter: nothing is pushed.
    return make_source(info, type, {ship<Source, CollectionSource<char>>(*info, std::vector<char>())}, 1);
  }
  NodePtr node = nodes.size() == 1 ? std::move(nodes[0]) : make_union(info, std::move(nodes), UnionBody::How::append);
  if (node->partitions <= partitions_max) return node;
  return make_union(info, {std::move(node)}, UnionBody::How::coalesce, partitions_max);
}

}  // namespace sluice::detail
