#include "sluice/core/program.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/core/kernels.h"
#include "sluice/core/keyed.h"
#include "sluice/core/shuffles.h"
#include "sluice/core/sources.h"
#include "sluice/core/stores.h"
#include "sluice/runtime/process.h"
#include "sluice/runtime/random.h"
#include "sluice/testkit/hand_runtime.h"
#include "tests/graphs.h"

namespace sluice::detail {
namespace {

/// A task with every kind of step and of output:
///   0 ReadSource 1..5 -> 1 RunKernel (pairs) -> WriteShuffle 11, WriteBlock, Collect 0
///   2 ReadBlock (pairs) -> 3 PassThrough of 1 and 2 -> Collect 1
///   4 ReadShuffle, 5 ReadShuffle (keyed) -> 6 RunZip (join) -> Collect 2
TaskProgram every_kind() {
  using Combine = ReduceCombine<Number, std::plus<>>;
  const auto info = named("operator");
  TaskProgram program;
  const auto step = [&](auto what, std::vector<std::uint32_t> inputs) {
    program.steps.push_back({std::move(what), info, 0, std::move(inputs), 5});
  };
  const auto pair_of = [](Number n) { return Pair(n % 2, n); };
  const auto keyed = ship<ShuffleKernel, KeyedShuffle<Number, Number>>(*info);
  step(ReadSource{ship<Source, CollectionSource<Number>>(*info, std::vector<Number>{1, 2, 3, 4, 5})}, {});
  step(RunKernel{ship<Kernel, StepKernel<Number, Pair, MapStep<decltype(pair_of)>>>(
           *info, Fn<MapStep<decltype(pair_of)>>{{pair_of}})},
       {0});
  step(ReadBlock{{9, 0}, &type_ops<Pair>()}, {});
  step(PassThrough{}, {1, 2});
  step(ReadShuffle{21, keyed}, {});
  step(ReadShuffle{22, keyed}, {});
  step(RunZip{ship<ZipKernel, JoinKernel<Number, Number, Number>>(*info)}, {4, 5});
  program.outputs.push_back(
      {WriteShuffle{11, 2, ship<ShuffleKernel, CombineKernel<Number, Number, Number, Combine>>(*info, Fn<Combine>{})},
       1, 0, info});
  program.outputs.push_back({WriteBlock{{12, 0}, &type_ops<Pair>(), static_cast<int>(Keep::memory)}, 1, 0, info});
  program.outputs.push_back({Collect{0, &type_ops<Pair>()}, 1, 0, info});
  program.outputs.push_back({Collect{1, &type_ops<Pair>()}, 3, 0, info});
  program.outputs.push_back({Collect{2, &type_ops<std::pair<Number, Pair>>()}, 6, 0, info});
  return program;
}

std::string encoded(const TaskProgram& program) {
  Encoder out;
  program.encode_to(out);
  return out.take();
}
TaskProgram decoded(std::string_view bytes) {
  Decoder in(bytes);
  TaskProgram program = TaskProgram::decode_from(in);
  in.expect_end();
  return program;
}

class ProgramTest : public ::testing::Test {
 protected:
  /// Stores with what every_kind() reads.
  void SetUp() override {
    auto block = std::make_shared<RestedRecords>(type_ops<Pair>());
    const std::vector<Pair> pairs{{7, 70}, {8, 80}};
    block->append(pairs.data(), pairs.size());
    blocks_.put({9, 0}, block, Keep::memory);
    write_keyed(21, {{1, 10}, {2, 20}});
    write_keyed(22, {{2, 200}, {1, 100}, {3, 300}});
    shuffles_.open(11, 1);
  }
  void write_keyed(std::uint64_t shuffle, const std::vector<Pair>& pairs) {
    const KeyedShuffle<Number, Number> kernel;
    TaskContext task(environment_, {}, nullptr);
    const auto info = named("keyed");
    const auto writer = kernel.open_writer({task, *info, 0}, 1);
    writer->push(pairs.data(), pairs.size());
    writer->finish();
    shuffles_.open(shuffle, 1);
    shuffles_.put(shuffle, 0, writer->take_buckets());
  }
  void expect_results_of_every_kind(const TaskResult& result) {
    const std::vector<Pair> pairs{{1, 1}, {0, 2}, {1, 3}, {0, 4}, {1, 5}};
    ASSERT_EQ(result.results.size(), 3U);
    EXPECT_EQ(values_of<Pair>(result.results[0]), pairs);
    std::vector<Pair> both = pairs;
    both.insert(both.end(), {{7, 70}, {8, 80}});
    EXPECT_EQ(values_of<Pair>(result.results[1]), both);
    EXPECT_EQ((values_of<std::pair<Number, Pair>>(result.results[2])),
              (std::vector<std::pair<Number, Pair>>{{2, {20, 200}}, {1, {10, 100}}}));
    EXPECT_EQ(values_of<Pair>(blocks_.get({12, 0})), pairs);
    EXPECT_TRUE(shuffles_.complete(11));
  }

  testing::HandRuntime runtime_;
  BlockStore blocks_{runtime_, {}};
  ShuffleStore shuffles_;
  StateStore states_;
  TaskEnvironment environment_{runtime_, blocks_, shuffles_, states_};
};

TEST_F(ProgramTest, RunsEveryKindOfStep) {
  expect_results_of_every_kind(run_task(every_kind(), {.batch = 5}, environment_));
}

TEST_F(ProgramTest, RunsTheSameAfterItHasTravelled) {
  const std::string bytes = encoded(every_kind());
  const TaskProgram program = decoded(bytes);
  EXPECT_EQ(encoded(program), bytes);
  EXPECT_EQ(program.steps[3].info->name, "operator");
  EXPECT_EQ(program.steps[3].batch, 5);
  Encoder out;
  encode_result(run_task(program, {.batch = 5}, environment_), out);
  Decoder in(out.view());
  expect_results_of_every_kind(decode_result(in));
  in.expect_end();
}

TEST_F(ProgramTest, LeavesNothingBehindWhenItFails) {
  TaskProgram program = every_kind();
  blocks_.remove_owner(9);
  EXPECT_THROW(run_task(program, {.batch = 5}, environment_), BlockLost);
  EXPECT_FALSE(shuffles_.complete(11));
  EXPECT_FALSE(blocks_.has({12, 0}));
}

TEST_F(ProgramTest, TellsUpdatesOfAccumulatorsThatHaveTravelled) {
  TaskResult result;
  result.updates = {{3, -5}, {1ULL << 60, std::int64_t{1} << 50}};
  Encoder out;
  encode_result(result, out);
  Decoder in(out.view());
  EXPECT_EQ(decode_result(in).updates, result.updates);
}

TEST(TaskMessage, CutAnywhereIsAnError) {
  const std::string bytes = encoded(every_kind());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    try {
      decoded({bytes.data(), size});
      ADD_FAILURE() << size;
    } catch (const Error& error) {
      EXPECT_GE(static_cast<int>(error.code()), 301) << size;
      EXPECT_LE(static_cast<int>(error.code()), 305) << size;
    }
  }
}

// Addresses themselves are left as they are: whoever can send one can run any code of the image (closure.h). Read in
// the wrong place, after damage before it, an address is refused.
TEST(TaskMessage, DamagedOutsideAddressesIsAnErrorAtMost) {
  const std::string bytes = encoded(every_kind());
  std::vector<bool> address(bytes.size());
  std::size_t addresses = 0;
  const std::uint64_t build = image_of(reinterpret_cast<const void*>(&encoded))->build_id;
  for (const std::type_info* what :
       {&typeid(TypeOps), &typeid(Shipped<Source>(*)(Decoder&)), &typeid(Shipped<Kernel>(*)(Decoder&)),
        &typeid(Shipped<ShuffleKernel>(*)(Decoder&)), &typeid(Shipped<ZipKernel>(*)(Decoder&))}) {
    Encoder head;
    head.u64(build ^ what->hash_code());
    for (std::size_t at = bytes.find(head.view()); at != std::string::npos; at = bytes.find(head.view(), at + 1)) {
      for (std::size_t i = 0; i < 16; ++i) address[at + i] = true;
      ++addresses;
    }
  }
  EXPECT_EQ(addresses, 11U);
  Random random(1);
  int failures = 0;
  for (int i = 0; i < 200'000; ++i) {
    std::string damaged = bytes;
    for (std::uint64_t n = 1 + random.below(3); n > 0; --n) {
      const std::size_t at = random.below(bytes.size());
      if (!address[at]) damaged[at] = static_cast<char>(random.chance(0.5) ? random.below(8) : random.below(256));
    }
    try {
      decoded(damaged);
    } catch (const Error& error) {
      ++failures;
      EXPECT_GE(static_cast<int>(error.code()), 301);
      EXPECT_LE(static_cast<int>(error.code()), 305);
    }
  }
  EXPECT_GT(failures, 1000);
}

}  // namespace
}  // namespace sluice::detail
