#include "sluice/core/node.h"

#include "sluice/core/engine.h"
#include "sluice/core/hash.h"

namespace sluice::detail {

std::vector<std::pair<std::size_t, std::size_t>> union_inputs(const Node& node, std::size_t partition) {
  std::vector<std::pair<std::size_t, std::size_t>> inputs;
  switch (std::get<UnionBody>(node.body).how) {
    case UnionBody::How::append: {
      std::size_t parent = 0;
      while (partition >= node.parents[parent]->partitions) partition -= node.parents[parent++]->partitions;
      inputs.emplace_back(parent, partition);
      break;
    }
    case UnionBody::How::align:
      for (std::size_t parent = 0; parent < node.parents.size(); ++parent) inputs.emplace_back(parent, partition);
      break;
    case UnionBody::How::coalesce: {
      const std::size_t parts = node.parents[0]->partitions;
      const std::size_t end = (partition + 1) * parts / node.partitions;
      for (std::size_t p = partition * parts / node.partitions; p < end; ++p) inputs.emplace_back(0, p);
      break;
    }
    case UnionBody::How::choose: inputs.emplace_back(0, std::get<UnionBody>(node.body).chosen.at(partition)); break;
  }
  return inputs;
}

namespace {

std::shared_ptr<Node> make_node(OperatorInfoPtr info, const TypeOps& type, std::vector<NodePtr> parents,
                                std::size_t partitions) {
  auto node = std::make_shared<Node>();
  node->info = std::move(info);
  node->type = &type;
  node->parents = std::move(parents);
  node->partitions = partitions;
  return node;
}

}  // namespace

NodePtr make_source(OperatorInfoPtr info, const TypeOps& type, std::vector<Shipped<Source>> sources,
                    std::size_t partitions, std::shared_ptr<const void> holds, bool by_key) {
  SLUICE_ASSERT(sources.size() == 1 || sources.size() == partitions);
  auto node = make_node(std::move(info), type, {}, partitions);
  node->by_key = by_key;
  node->body = SourceBody{std::move(sources), std::move(holds)};
  return node;
}

NodePtr make_narrow(OperatorInfoPtr info, const TypeOps& type, NodePtr parent, Shipped<Kernel> kernel,
                    bool keeps_partitioning) {
  const std::size_t partitions = parent->partitions;
  const bool by_key = keeps_partitioning && parent->by_key;
  auto node = make_node(std::move(info), type, {std::move(parent)}, partitions);
  node->by_key = by_key;
  node->body = NarrowBody{std::move(kernel)};
  return node;
}

NodePtr make_shuffled(Engine& engine, OperatorInfoPtr info, const TypeOps& type, NodePtr parent,
                      Shipped<ShuffleKernel> kernel, std::size_t partitions, bool by_key) {
  if (partitions == 0 || partitions > key_groups) {
    throw Error(Code::bad_argument, {.why = "the number of partitions is " + std::to_string(partitions) +
                                            ", not in 1.." + std::to_string(key_groups),
                                     .operation = info->name,
                                     .where = info->where});
  }
  auto node = make_node(std::move(info), type, {std::move(parent)}, partitions);
  node->by_key = by_key;
  node->body =
      ShuffledBody{std::move(kernel), std::make_shared<ShuffleLease>(engine.shared_from_this(), engine.next_id())};
  return node;
}

NodePtr make_union(OperatorInfoPtr info, std::vector<NodePtr> parents, UnionBody::How how,
                   std::size_t coalesced_partitions) {
  SLUICE_ASSERT(!parents.empty());
  std::size_t partitions = parents[0]->partitions;
  bool by_key = false;
  if (how == UnionBody::How::append) {
    partitions = 0;
    for (const NodePtr& parent : parents) partitions += parent->partitions;
  } else if (how == UnionBody::How::align) {
    by_key = true;
    for (const NodePtr& parent : parents) {
      SLUICE_ASSERT(parent->partitions == partitions);
      by_key = by_key && parent->by_key;
    }
  } else if (coalesced_partitions < partitions) {
    partitions = coalesced_partitions;
  }
  const TypeOps& type = *parents[0]->type;
  auto node = make_node(std::move(info), type, std::move(parents), partitions);
  node->by_key = by_key;
  node->body = UnionBody{.how = how};
  return node;
}

NodePtr make_chosen(OperatorInfoPtr info, NodePtr parent, std::vector<std::size_t> partitions) {
  const TypeOps& type = *parent->type;
  auto node = make_node(std::move(info), type, {std::move(parent)}, partitions.size());
  node->body = UnionBody{UnionBody::How::choose, std::move(partitions)};
  return node;
}

NodePtr make_zip(OperatorInfoPtr info, const TypeOps& type, std::vector<NodePtr> parents, Shipped<ZipKernel> kernel,
                 bool by_key, std::int64_t batch, Shipped<StateMaker> state) {
  const std::size_t partitions = parents.at(0)->partitions;
  for (const NodePtr& parent : parents) SLUICE_ASSERT(parent->partitions == partitions);
  auto node = make_node(std::move(info), type, std::move(parents), partitions);
  node->by_key = by_key;
  node->batch = batch;
  node->body = ZipBody{std::move(kernel), std::move(state)};
  return node;
}

NodePtr make_cached(Engine& engine, NodePtr parent, Keep level, bool twice) {
  const OperatorInfoPtr info = parent->info;
  const TypeOps& type = *parent->type;
  const std::size_t partitions = parent->partitions;
  const bool by_key = parent->by_key;
  auto node = make_node(info, type, {std::move(parent)}, partitions);
  node->by_key = by_key;
  node->body = CachedBody{std::make_shared<BlockLease>(engine.shared_from_this(), engine.next_id()), level, twice};
  return node;
}

NodePtr make_kept_block(NodePtr parent, std::shared_ptr<BlockLease> lease) {
  const OperatorInfoPtr info = parent->info;
  const TypeOps& type = *parent->type;
  auto node = make_node(info, type, {std::move(parent)}, 1);
  node->body = CachedBody{std::move(lease), Keep::memory_and_disk, false};
  return node;
}

namespace {
class DiscardKernel : public Kernel {
 public:
  std::unique_ptr<Pipe> open(const OpenAt&, Pipe& next) const override { return std::make_unique<Discard>(next); }

 private:
  class Discard : public Pipe {
   public:
    explicit Discard(Pipe& next) : next_(next) {}
    void push(const void*, std::size_t) override {}
    void finish() override { next_.finish(); }
    bool ignores_records() const override { return true; }

   private:
    Pipe& next_;
  };
};
}  // namespace

NodePtr make_discard(OperatorInfoPtr info, NodePtr parent) {
  const auto kernel = ship<Kernel, DiscardKernel>(*info);
  return make_narrow(std::move(info), type_ops<std::int64_t>(), std::move(parent), kernel);
}

}  // namespace sluice::detail
