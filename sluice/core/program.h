// A task as it travels: which operators to open over which partitions, and where their records end.
//
// Made by the planner (plan.h), encoded to bytes for another process, run by whoever has a TaskEnvironment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <variant>
#include <vector>

#include "sluice/core/state.h"
#include "sluice/core/task.h"

namespace sluice::detail {

using OperatorInfoPtr = std::shared_ptr<const OperatorInfo>;

struct ReadSource {
  Shipped<Source> source;
};
struct ReadShuffle {
  std::uint64_t shuffle = 0;
  Shipped<ShuffleKernel> kernel;
};
struct ReadBlock {
  BlockId block;
  const TypeOps* type = nullptr;
};
struct RunKernel {
  Shipped<Kernel> kernel;
};
struct RunZip {
  Shipped<ZipKernel> kernel;
  /// Of an operator with state in memory; its partition is the step's.
  Shipped<StateMaker> state;
};
/// Passes the records of its inputs on, one input after the other.
struct PassThrough {};

/// One operator over one partition. Inputs are indices of earlier steps.
struct TaskStep {
  std::variant<ReadSource, ReadShuffle, ReadBlock, RunKernel, RunZip, PassThrough> what;
  OperatorInfoPtr info;
  std::uint32_t partition = 0;
  std::vector<std::uint32_t> inputs;
  /// See OpenAt.
  std::int64_t batch = 0;
};

struct WriteShuffle {
  std::uint64_t shuffle = 0;
  std::uint32_t targets = 0;
  Shipped<ShuffleKernel> kernel;
};
struct WriteBlock {
  BlockId block;
  const TypeOps* type = nullptr;
  int level = 0;
  /// Also on another executor, where there is one: it cannot be made again.
  bool twice = false;
};
/// Records that the driver wants. All actions are this, after kernels that reduce a partition to what is asked for.
struct Collect {
  /// Index of the target among those of the job.
  std::uint32_t target = 0;
  const TypeOps* type = nullptr;
};

/// Where records of a step end. A step may have several outputs: it runs once and its chunks are teed.
struct TaskOutput {
  std::variant<WriteShuffle, WriteBlock, Collect> what;
  std::uint32_t step = 0;
  /// Map partition of the shuffle, or partition of the block or target.
  std::uint32_t partition = 0;
  OperatorInfoPtr info;
};

struct TaskProgram {
  std::vector<TaskStep> steps;  // in an order in which inputs come first
  std::vector<TaskOutput> outputs;

  void encode_to(Encoder& out) const;
  static TaskProgram decode_from(Decoder& in);
};

/// A cached partition that the plan relied on is gone: it was evicted since, or its file is damaged. The engine plans
/// again without it.
struct BlockLost : Error {
  explicit BlockLost(const BlockId& id) : Error(Code::corrupt_data, {.why = "a cached partition is lost"}), block(id) {}
  BlockId block;
};

/// What a successful attempt gives. Results stand in the order of the program's Collect outputs.
struct TaskResult {
  std::vector<RestedPtr> results;
  AccumulatorUpdates updates;
  /// False when all it made was there already, put by another job meanwhile: then its updates have been counted too.
  bool adopted = true;
};

/// Outputs of a task, by index, that an attempt failed to make: those behind the operator that threw.
using FailedOutputs = std::set<std::uint32_t>;
/// All of them: where nobody knows which (the task did not even travel).
FailedOutputs all_outputs(const TaskProgram& program);

/// What makes the state that a step works on; null for steps without.
const Shipped<StateMaker>* state_of(const TaskStep& step);

/// Runs one attempt: opens the pipes, reads the sources, and adopts what came out (buckets, blocks, state) when all
/// of it succeeded. Throws what went wrong; nothing is adopted then, and what failed is added to `failed`.
TaskResult run_task(const TaskProgram& program, const TaskId& id, TaskEnvironment& environment,
                    const std::atomic<bool>* cancelled = nullptr, FailedOutputs* failed = nullptr);

/// The build of this program: of the image that the engine is linked into. Only processes of one build understand each
/// other's tasks.
std::uint64_t build_of_program();

/// A type of this program as it travels.
void encode_type(const TypeOps* type, Encoder& out);
const TypeOps* decode_type(Decoder& in);

/// A place in the user's program as it travels.
void encode_place(const Place& place, Encoder& out);
Place decode_place(Decoder& in);

/// A result as bytes and back (for tasks that ran elsewhere).
void encode_result(const TaskResult& result, Encoder& out);
TaskResult decode_result(Decoder& in);

}  // namespace sluice::detail
