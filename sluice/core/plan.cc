#include "sluice/core/plan.h"

#include <algorithm>
#include <numeric>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace sluice::detail {
namespace {

/// More rounds would be told nobody any sooner, and every executor keeps their tasks in memory.
constexpr std::size_t rounds_max = 8;

/// What the rounds that have been planned will have made.
struct Ahead {
  std::set<std::uint64_t> shuffles;
  std::set<std::size_t> targets;
  std::set<BlockId> blocks;
  /// Operators whose state they change.
  std::set<const OperatorInfo*> with_state;
};

/// What may be relied on when the graph is walked.
struct Stores {
  bool complete(std::uint64_t shuffle) const { return ahead.shuffles.contains(shuffle) || shuffles.complete(shuffle); }
  /// Errors: SLU-211 it is not there, and must not be made again. To be found out before anything is made for it.
  bool has_block(const BlockId& id) const {
    if (!lost.contains(id) && blocks.has(id)) return true;
    if (!blocks.is_lost_for_good(id)) return false;
    throw Error(Code::state_lost, {.why = "the executors that had a partition of it have ended, and no copy is left"});
  }
  /// A cached node of which no partition must be computed.
  bool cached_whole(const Node& node) const {
    const auto* cached = std::get_if<CachedBody>(&node.body);
    if (cached == nullptr) return false;
    for (std::size_t p = 0; p < node.partitions; ++p) {
      if (!has_block({cached->lease->owner, p})) return false;
    }
    return true;
  }

  ShuffleStore& shuffles;
  BlockStore& blocks;
  const std::set<BlockId>& lost;
  Ahead ahead{};
};

/// Something to compute: the map side of a shuffle, or a target of the job.
struct Sink {
  const Node* node = nullptr;      // whose partitions are read
  const Node* shuffled = nullptr;  // the shuffle written, or nullptr
  std::size_t target = 0;
};

class Planner {
 public:
  Planner(const Job& job, const Stores& stores) : job_(job), stores_(stores) {
    for (std::size_t i = 0; i < job.targets.size(); ++i) {
      if (!job.is_open(i) || stores.ahead.targets.contains(i)) continue;
      if (!needs_shuffles(*job.targets[i])) sinks_.push_back({job.targets[i].get(), nullptr, i});
    }
  }

  /// There is nothing left to do.
  bool is_at_end() const { return sinks_.empty(); }

  std::vector<TaskProgram> plan(const Products* only) {
    for (const Sink& sink : sinks_) {
      Product product{.target = static_cast<std::uint32_t>(sink.target)};
      std::vector<bool> present;
      if (sink.shuffled != nullptr) {
        product.shuffle = std::get<ShuffledBody>(sink.shuffled->body).lease->id;
        stores_.shuffles.open(product.shuffle, sink.node->partitions);
        present = stores_.shuffles.present(product.shuffle);
      }
      for (std::size_t p = 0; p < sink.node->partitions; ++p) {
        const bool is_there =
            sink.shuffled != nullptr ? present[p] : job_.results[sink.target].partitions[p] != nullptr;
        product.partition = static_cast<std::uint32_t>(p);
        if (!is_there && (only == nullptr || only->contains(product))) add_output(sink, p);
      }
    }
    return split();
  }

  /// What has been planned needs a block, or state, that an earlier round makes or changes.
  bool must_wait() const { return must_wait_; }

  /// Adds what it will have made.
  void add_to(Ahead& ahead) const {
    for (const Sink& sink : sinks_) {
      if (sink.shuffled == nullptr) {
        ahead.targets.insert(sink.target);
      } else {
        ahead.shuffles.insert(std::get<ShuffledBody>(sink.shuffled->body).lease->id);
      }
    }
    ahead.blocks.insert(blocks_.begin(), blocks_.end());
    ahead.with_state.insert(with_state_.begin(), with_state_.end());
  }

 private:
  // True when a shuffle below `node` must run first; then its map side (or what that needs) becomes a sink.
  bool needs_shuffles(const Node& node) {
    const auto known = needs_.find(&node);
    if (known != needs_.end()) return known->second;
    bool needs = false;
    if (const auto* shuffled = std::get_if<ShuffledBody>(&node.body)) {
      if (!stores_.complete(shuffled->lease->id)) {
        needs = true;
        if (!needs_shuffles(*node.parents[0])) sinks_.push_back({node.parents[0].get(), &node, 0});
      }
    } else if (!stores_.cached_whole(node)) {
      for (const NodePtr& parent : node.parents) needs |= needs_shuffles(*parent);
    }
    needs_.emplace(&node, needs);
    return needs;
  }

  void add_output(const Sink& sink, std::size_t partition) {
    TaskOutput output;
    output.step = add_step(*sink.node, partition);
    output.partition = static_cast<std::uint32_t>(partition);
    if (sink.shuffled != nullptr) {
      const auto& body = std::get<ShuffledBody>(sink.shuffled->body);
      output.info = sink.shuffled->info;
      output.what = WriteShuffle{body.lease->id, static_cast<std::uint32_t>(sink.shuffled->partitions), body.kernel};
    } else {
      output.info = sink.node->info;
      output.what = Collect{static_cast<std::uint32_t>(sink.target), sink.node->type};
    }
    outputs_.push_back(std::move(output));
  }

  struct InstanceHash {
    std::size_t operator()(const std::pair<const Node*, std::size_t>& key) const {
      return std::hash<const void*>()(key.first) * 31 + key.second;
    }
  };

  std::uint32_t add_step(const Node& node, std::size_t partition) {
    const auto known = index_.find({&node, partition});
    if (known != index_.end()) return known->second;
    TaskStep step;
    step.info = node.info;
    step.partition = static_cast<std::uint32_t>(partition);
    step.batch = node.batch;
    if (node.batch != 0) {
      must_wait_ = must_wait_ || stores_.ahead.with_state.contains(node.info.get());
      with_state_.insert(node.info.get());
    }
    if (const auto* source = std::get_if<SourceBody>(&node.body)) {
      step.what = ReadSource{source->of(partition)};
    } else if (const auto* narrow = std::get_if<NarrowBody>(&node.body)) {
      step.inputs.push_back(add_step(*node.parents[0], partition));
      step.what = RunKernel{narrow->kernel};
    } else if (const auto* shuffled = std::get_if<ShuffledBody>(&node.body)) {
      step.what = ReadShuffle{shuffled->lease->id, shuffled->kernel};
    } else if (std::holds_alternative<UnionBody>(node.body)) {
      for (const auto& [parent, p] : union_inputs(node, partition)) {
        step.inputs.push_back(add_step(*node.parents[parent], p));
      }
      step.what = PassThrough{};
    } else if (const auto* zip = std::get_if<ZipBody>(&node.body)) {
      for (const NodePtr& parent : node.parents) step.inputs.push_back(add_step(*parent, partition));
      step.what = RunZip{zip->kernel, zip->state};
    } else {
      add_cached(std::get<CachedBody>(node.body), node, partition, step);
    }
    const auto index = static_cast<std::uint32_t>(steps_.size());
    root_.push_back(index);
    for (const std::uint32_t input : step.inputs) join(input, index);
    steps_.push_back(std::move(step));
    index_.emplace(std::pair(&node, partition), index);
    return index;
  }

  void add_cached(const CachedBody& cached, const Node& node, std::size_t partition, TaskStep& step) {
    const BlockId id{cached.lease->owner, partition};
    if (stores_.has_block(id)) {
      step.what = ReadBlock{id, node.type};
      return;
    }
    step.inputs.push_back(add_step(*node.parents[0], partition));
    step.what = PassThrough{};
    if (stores_.lost.contains(id)) return;
    must_wait_ = must_wait_ || stores_.ahead.blocks.contains(id);
    blocks_.insert(id);
    TaskOutput output;
    output.what = WriteBlock{id, node.type, static_cast<int>(cached.level), cached.twice};
    output.step = step.inputs[0];
    output.partition = static_cast<std::uint32_t>(partition);
    output.info = node.info;
    outputs_.push_back(std::move(output));
  }

  // Steps that hang together are one task: union-find, the root is the smallest index.
  std::uint32_t find(std::uint32_t step) {
    while (root_[step] != step) step = root_[step] = root_[root_[step]];
    return step;
  }
  void join(std::uint32_t a, std::uint32_t b) {
    a = find(a);
    b = find(b);
    root_[std::max(a, b)] = std::min(a, b);
  }

  std::vector<TaskProgram> split() {
    std::vector<TaskProgram> tasks;
    std::vector<std::uint32_t> task_of(steps_.size());
    std::vector<std::uint32_t> index_in_task(steps_.size());
    for (std::uint32_t i = 0; i < steps_.size(); ++i) {
      const std::uint32_t root = find(i);
      if (root == i) {
        task_of[i] = static_cast<std::uint32_t>(tasks.size());
        tasks.emplace_back();
      } else {
        task_of[i] = task_of[root];
      }
      TaskProgram& task = tasks[task_of[i]];
      index_in_task[i] = static_cast<std::uint32_t>(task.steps.size());
      for (std::uint32_t& input : steps_[i].inputs) input = index_in_task[input];
      task.steps.push_back(std::move(steps_[i]));
    }
    for (TaskOutput& output : outputs_) {
      TaskProgram& task = tasks[task_of[output.step]];
      output.step = index_in_task[output.step];
      task.outputs.push_back(std::move(output));
    }
    return tasks;
  }

  const Job& job_;
  const Stores& stores_;
  std::vector<Sink> sinks_;
  std::unordered_map<const Node*, bool> needs_;
  std::vector<TaskStep> steps_;
  std::vector<std::uint32_t> root_;
  std::vector<TaskOutput> outputs_;
  std::set<BlockId> blocks_;
  std::set<const OperatorInfo*> with_state_;
  bool must_wait_ = false;
  std::unordered_map<std::pair<const Node*, std::size_t>, std::uint32_t, InstanceHash> index_;
};

/// True when `node` cannot be made before the shuffle is complete.
bool needs(const Node& node, std::uint64_t shuffle, const Stores& stores, std::unordered_set<const Node*>& seen) {
  if (!seen.insert(&node).second) return false;
  if (const auto* shuffled = std::get_if<ShuffledBody>(&node.body)) {
    if (stores.complete(shuffled->lease->id)) return false;
    if (shuffled->lease->id == shuffle) return true;
  } else if (stores.cached_whole(node)) {
    return false;
  }
  return std::any_of(node.parents.begin(), node.parents.end(),
                     [&](const NodePtr& parent) { return needs(*parent, shuffle, stores, seen); });
}

}  // namespace

Job::Job(const std::vector<NodePtr>& of) : targets(of), results(of.size()) {
  for (std::size_t i = 0; i < of.size(); ++i) results[i].partitions.resize(of[i]->partitions);
}

bool Job::is_open(std::size_t target) const {
  const JobResult& result = results[target];
  return result.error == nullptr &&
         std::find(result.partitions.begin(), result.partitions.end(), nullptr) != result.partitions.end();
}

bool Job::is_open() const {
  for (std::size_t i = 0; i < targets.size(); ++i) {
    if (is_open(i)) return true;
  }
  return false;
}

void Job::fail_all(const std::exception_ptr& error) {
  for (std::size_t i = 0; i < targets.size(); ++i) {
    if (is_open(i)) fail(i, error);
  }
}

void Job::fail(std::size_t target, const std::exception_ptr& error) {
  if (results[target].error != nullptr) return;
  results[target].error = error;
  results[target].partitions.clear();
}

Rounds plan_rounds(const Job& job, ShuffleStore& shuffles, BlockStore& blocks) {
  Rounds rounds;
  Stores stores{shuffles, blocks, job.lost};
  while (rounds.size() < rounds_max) {
    Planner planner(job, stores);
    if (planner.is_at_end()) break;
    std::vector<TaskProgram> tasks = planner.plan(nullptr);
    if (planner.must_wait()) break;
    planner.add_to(stores.ahead);
    rounds.push_back(std::move(tasks));
  }
  return rounds;
}

Rounds plan_only(const Products& products, const Job& job, ShuffleStore& shuffles, BlockStore& blocks) {
  const Stores stores{shuffles, blocks, job.lost};
  Rounds rounds;
  rounds.push_back(Planner(job, stores).plan(&products));
  return rounds;
}

std::optional<Product> product_of(const TaskOutput& output) {
  if (const auto* shuffle = std::get_if<WriteShuffle>(&output.what)) {
    return Product{.shuffle = shuffle->shuffle, .partition = output.partition};
  }
  if (const auto* collect = std::get_if<Collect>(&output.what)) {
    return Product{.target = collect->target, .partition = output.partition};
  }
  return std::nullopt;
}

std::vector<std::size_t> needed_by(const Product& product, const Job& job, ShuffleStore& shuffles, BlockStore& blocks) {
  const Stores stores{shuffles, blocks, job.lost};
  std::vector<std::size_t> targets;
  for (std::size_t i = 0; i < job.targets.size(); ++i) {
    if (!job.is_open(i)) continue;
    std::unordered_set<const Node*> seen;
    const bool is_needed =
        product.shuffle == 0 ? product.target == i : needs(*job.targets[i], product.shuffle, stores, seen);
    if (is_needed) targets.push_back(i);
  }
  return targets;
}

}  // namespace sluice::detail
