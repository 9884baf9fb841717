// own main
// Tasks in a second process of this binary give what they give here.
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "sluice/core/plan.h"
#include "sluice/core/remote_task.h"
#include "sluice/sluice.h"

namespace sluice::detail {
namespace {

Context local() { return Context{{.master = "local[2]", .partitions = 3, .hash_seed = 42}}; }

/// Runs all rounds of a job with one task after the other by `run`.
template <class Run>
std::vector<TaskResult> run_job(Engine& engine, const NodePtr& node, const Run& run) {
  const std::vector<NodePtr> targets{node};
  const auto tasks = plan_round(Job(targets), engine.shuffles(), engine.blocks());
  std::vector<TaskResult> results;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    TaskId id;
    id.job = 1;
    id.task = static_cast<std::uint32_t>(i);
    results.push_back(run(tasks[i], id));
  }
  return results;
}

std::string bytes_of(const std::vector<TaskResult>& results) {
  Encoder bytes;
  for (const TaskResult& result : results) encode_result(result, bytes);
  return std::string(bytes.view());
}

template <class T>
void expect_same_there(const Rdd<T>& rdd) {
  Engine& engine = *rdd.engine();
  const auto here = run_job(engine, rdd.node(), [&](const TaskProgram& program, const TaskId& id) {
    return run_task(program, id, engine.environment());
  });
  TaskProcess process;
  const auto there = run_job(engine, rdd.node(), [&](const TaskProgram& program, const TaskId& id) {
    return process.run(program, id, engine.options().hash_seed);
  });
  EXPECT_EQ(bytes_of(here), bytes_of(there));
  EXPECT_EQ(here.size(), rdd.partitions());
  std::size_t records = 0;
  for (const TaskResult& result : there) {
    for (const RestedPtr& rested : result.results) records += rested->count();
  }
  EXPECT_EQ(records, rdd.collect().size());
}

int negate(int x) { return -x; }

TEST(SecondProcess, NarrowOperatorsGiveTheSameBytes) {
  const Context ctx = local();
  const int offset = 7;
  expect_same_there(ctx.parallelize(std::vector{1, 2, 3, 4, 5})
                        .map([offset](int x) { return x + offset; })
                        .map(negate)
                        .flat_map([](int x) { return std::vector<int>(2, x); })
                        .filter([](int x) { return x % 2 == 0; })
                        .map_partitions([](Partition<int>& partition) {
                          std::vector<std::string> all{std::to_string(partition.index())};
                          for (const int x : partition) all.push_back("number " + std::to_string(x));
                          return all;
                        }));
}

TEST(SecondProcess, TextAndValuesPassedByWithTravel) {
  const Context ctx = local();
  expect_same_there(
      ctx.parallelize(std::vector<std::string_view>{"a b", "a text that is long enough to lie elsewhere"}, 1)
          .flat_map(split(' '))
          .map(with(std::string("prefix of some length "), [](const std::string& prefix, std::string_view w) {
            return std::pair(prefix + std::string(w), w);
          })));
}

TEST(SecondProcess, KeysAreHashedAlike) {
  const Context ctx = local();
  std::vector<std::pair<int, int>> values;
  for (int i = 0; i < 200; ++i) values.emplace_back(i * 31 % 17, i);
  // In one partition the map side of a reduction is a narrow operator too.
  const auto rdd = ctx.parallelize(values, 1);
  Engine& engine = *rdd.engine();
  const auto combine = [](const Rdd<std::pair<int, int>>& pairs) {
    const OperatorInfo info{"combine", {}};
    using Combine = ReduceCombine<int, std::plus<>>;
    return make_narrow(std::make_shared<const OperatorInfo>(info), type_ops<std::pair<int, int>>(), pairs.node(),
                       ship<Kernel, CombineInPlaceKernel<int, int, Combine>>(info, Fn<Combine>{{}}));
  };
  const auto here = run_job(engine, combine(rdd), [&](const TaskProgram& program, const TaskId& id) {
    return run_task(program, id, engine.environment());
  });
  TaskProcess process;
  const auto there = run_job(engine, combine(rdd), [&](const TaskProgram& program, const TaskId& id) {
    return process.run(program, id, engine.options().hash_seed);
  });
  EXPECT_EQ(bytes_of(here), bytes_of(there));
  EXPECT_EQ(there.at(0).results.at(0)->count(), 17U);
}

TEST(SecondProcess, WhatATaskAddsToAccumulatorsComesBack) {
  const Context ctx = local();
  const Accumulator sum = ctx.accumulator();
  const auto rdd = ctx.parallelize(std::vector{1, 2, 3}, 1).map([sum](int x) {
    sum.add(x);
    return x;
  });
  TaskProcess process;
  const auto there = run_job(*rdd.engine(), rdd.node(),
                             [&](const TaskProgram& program, const TaskId& id) { return process.run(program, id, 0); });
  EXPECT_EQ(there.at(0).updates, (AccumulatorUpdates{{sum.id(), 6}}));
}

int made_here = 0;

TEST(SecondProcess, ObjectsPerProcessAreMadeThere) {
  const Context ctx = local();
  const auto counter = per_process<int>([] { return ++made_here; });
  const auto rdd = ctx.parallelize(std::vector{10, 20}, 1).map([counter](int x) { return x + *counter; });
  TaskProcess process;
  for (int i = 0; i < 2; ++i) {
    const auto there = run_job(*rdd.engine(), rdd.node(), [&](const TaskProgram& program, const TaskId& id) {
      return process.run(program, id, 0);
    });
    EXPECT_EQ(there.at(0).results.at(0)->count(), 2U);
  }
  EXPECT_EQ(made_here, 0);
}

TEST(SecondProcess, ATaskThatThrowsGivesTheSameErrorText) {
  const Context ctx = local();
  const auto rdd = ctx.parallelize(std::vector{1, 2, 3}, 1)
                       .map([](int x) -> int {
                         if (x == 3) throw std::runtime_error("three is refused");
                         return x;
                       })
                       .name("refuses three");
  Engine& engine = *rdd.engine();
  std::string here;
  std::string there;
  try {
    run_job(engine, rdd.node(),
            [&](const TaskProgram& program, const TaskId& id) { return run_task(program, id, engine.environment()); });
  } catch (const Error& error) {
    here = error.what();
  }
  TaskProcess process;
  const auto run_there = [&](const TaskProgram& program, const TaskId& id) { return process.run(program, id, 0); };
  try {
    run_job(engine, rdd.node(), run_there);
  } catch (const Error& error) {
    there = error.what();
  }
  EXPECT_NE(here.find("three is refused"), std::string::npos) << here;
  EXPECT_NE(here.find("record 2 of partition 0"), std::string::npos) << here;
  EXPECT_EQ(here, there);
  // The process lives on.
  EXPECT_EQ(run_job(engine, ctx.parallelize(std::vector{1}, 1).node(), run_there).at(0).results.at(0)->count(), 1U);
}

TEST(SecondProcess, AProcessThatDiesIsAnError) {
  const Context ctx = local();
  const auto rdd = ctx.parallelize(std::vector{1}, 1).map([](int x) -> int {
    __builtin_trap();
    return x;
  });
  TaskProcess process;
  try {
    run_job(*rdd.engine(), rdd.node(),
            [&](const TaskProgram& program, const TaskId& id) { return process.run(program, id, 0); });
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_TRUE(error.code() == Code::process_failed || error.code() == Code::network_failed) << error.what();
  }
}

}  // namespace
}  // namespace sluice::detail

int main(int argc, char** argv) {
  sluice::init(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
