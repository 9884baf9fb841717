#include "sluice/core/plan.h"

#include <algorithm>
#include <numeric>
#include <unordered_map>
#include <unordered_set>

namespace sluice::detail {
namespace {

/// Something to compute in full: the map side of a shuffle (target == none), or a target of the job.
struct Sink {
  const Node* node = nullptr;      // whose partitions are read
  const Node* shuffled = nullptr;  // the shuffle written, or nullptr
  std::size_t target = 0;
};

class Planner {
 public:
  Planner(const std::vector<NodePtr>& targets, const std::vector<bool>& done, ShuffleStore& shuffles,
          BlockStore& blocks, const std::set<BlockId>& lost)
      : targets_(targets), shuffles_(shuffles), blocks_(blocks), lost_(lost) {
    for (std::size_t i = 0; i < targets.size(); ++i) {
      if (done[i]) continue;
      if (!needs_shuffles(*targets[i])) sinks_.push_back({targets[i].get(), nullptr, i});
    }
  }

  Round plan() {
    Round round;
    for (const Sink& sink : sinks_) {
      if (sink.shuffled != nullptr) {
        shuffles_.open(std::get<ShuffledBody>(sink.shuffled->body).lease->id, sink.node->partitions);
      } else {
        round.targets.push_back(sink.target);
      }
      for (std::size_t p = 0; p < sink.node->partitions; ++p) add_output(sink, p);
    }
    round.tasks = split();
    return round;
  }

 private:
  // True when a shuffle below `node` must run first; then its map side (or what that needs) becomes a sink.
  bool needs_shuffles(const Node& node) {
    const auto known = needs_.find(&node);
    if (known != needs_.end()) return known->second;
    bool needs = false;
    if (const auto* shuffled = std::get_if<ShuffledBody>(&node.body)) {
      if (!shuffles_.complete(shuffled->lease->id)) {
        needs = true;
        if (!needs_shuffles(*node.parents[0])) sinks_.push_back({node.parents[0].get(), &node, 0});
      }
    } else if (!cached_whole(node)) {
      for (const NodePtr& parent : node.parents) needs |= needs_shuffles(*parent);
    }
    needs_.emplace(&node, needs);
    return needs;
  }

  bool cached_whole(const Node& node) {
    const auto* cached = std::get_if<CachedBody>(&node.body);
    if (cached == nullptr) return false;
    for (std::size_t p = 0; p < node.partitions; ++p) {
      if (!has_block({cached->lease->owner, p})) return false;
    }
    return true;
  }

  bool has_block(const BlockId& id) { return !lost_.contains(id) && blocks_.has(id); }

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
      step.what = RunZip{zip->kernel};
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
    if (has_block(id)) {
      step.what = ReadBlock{id, node.type};
      return;
    }
    step.inputs.push_back(add_step(*node.parents[0], partition));
    step.what = PassThrough{};
    if (lost_.contains(id)) return;
    TaskOutput output;
    output.what = WriteBlock{id, node.type, static_cast<int>(cached.level)};
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

  const std::vector<NodePtr>& targets_;
  ShuffleStore& shuffles_;
  BlockStore& blocks_;
  const std::set<BlockId>& lost_;
  std::vector<Sink> sinks_;
  std::unordered_map<const Node*, bool> needs_;
  std::vector<TaskStep> steps_;
  std::vector<std::uint32_t> root_;
  std::vector<TaskOutput> outputs_;
  std::unordered_map<std::pair<const Node*, std::size_t>, std::uint32_t, InstanceHash> index_;
};

}  // namespace

Round plan_round(const std::vector<NodePtr>& targets, const std::vector<bool>& done, ShuffleStore& shuffles,
                 BlockStore& blocks, const std::set<BlockId>& lost) {
  return Planner(targets, done, shuffles, blocks, lost).plan();
}

}  // namespace sluice::detail
