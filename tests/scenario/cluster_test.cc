// own main
// Programs on executors: processes of this binary, and threads of a simulation.
#include <gtest/gtest.h>

#include <csignal>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "sluice/cluster/scheduler.h"
#include "sluice/runtime/process.h"
#include "sluice/sluice.h"
#include "sluice/testkit/simulation.h"
#include "sluice/testkit/testing.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;

Context on_processes(std::size_t executors = 2) {
  return Context{{.master = "local-cluster[" + std::to_string(executors) + ",1]", .partitions = 3, .hash_seed = 42}};
}

std::vector<std::int64_t> pids(const Context& ctx) {
  return dynamic_cast<detail::ClusterScheduler&>(ctx.engine()->runner()).members().pids();
}

std::map<int, long> counted(const Context& ctx, int numbers) {
  std::vector<int> all(static_cast<std::size_t>(numbers));
  for (int i = 0; i < numbers; ++i) all[static_cast<std::size_t>(i)] = i;
  std::map<int, long> counts;
  for (const auto& [key, count] :
       ctx.parallelize(all, 5).map([](int x) { return std::pair{x % 100, 1L}; }).reduce_by_key(std::plus{}).collect()) {
    counts[key] += count;
  }
  return counts;
}

TEST(Cluster, ABatchJobGivesWhatItGivesInThreads) {
  const Context ctx = on_processes();
  EXPECT_EQ(counted(ctx, 10'000), counted(Context{{.master = "local[2]"}}, 10'000));
  EXPECT_EQ(pids(ctx).size(), 2u);
}

TEST(Cluster, TasksRunInOtherProcesses) {
  const Context ctx = on_processes();
  const int here = process_id();
  const auto elsewhere =
      ctx.parallelize(std::vector<int>(100, here), 4).filter([](int pid) { return pid != process_id(); });
  EXPECT_EQ(elsewhere.count(), 100u);
}

TEST(Cluster, BroadcastValuesAndAccumulatorsTravel) {
  const Context ctx = on_processes();
  const auto names = ctx.broadcast(std::vector<std::string>{"zero", "one", "two"});
  const Accumulator calls = ctx.accumulator();
  const auto named = ctx.parallelize(std::vector{2, 0, 1, 2}, 3).map([names, calls](int x) {
    calls.add(1);
    return (*names)[static_cast<std::size_t>(x)];
  });
  EXPECT_EQ(named.collect().to_vector(), (std::vector<std::string>{"two", "zero", "one", "two"}));
  EXPECT_EQ(ctx.value_of(calls), 4);
  struct NoCodec {
    std::shared_ptr<int> value;
  };
  const auto here_alone = ctx.broadcast(NoCodec{std::make_shared<int>(1)});
  try {
    ctx.parallelize(std::vector{1}, 1).map([here_alone](int x) { return x + *here_alone->value; }).collect();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::captures_pointer) << error.what();
  }
}

TEST(Cluster, AUsersErrorComesBackAsInThreads) {
  const auto error_of = [](const Context& ctx) -> std::string {
    try {
      ctx.parallelize(std::vector{1, 2, 3}, 1)
          .map([](int x) {
            if (x == 3) throw std::runtime_error("three is too much");
            return x;
          })
          .collect();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  const std::string here = error_of(Context{{.master = "local"}});
  EXPECT_EQ(error_of(on_processes()), here);
  EXPECT_NE(here.find("three is too much"), std::string::npos);
}

TEST(Cluster, ALostExecutorIsReplacedAndNothingOfAJobIsLost) {
  const Context ctx = on_processes();
  const auto expected = counted(Context{{.master = "local"}}, 1'000);
  std::vector<int> all(1'000);
  for (int i = 0; i < 1'000; ++i) all[static_cast<std::size_t>(i)] = i;
  const auto counts =
      ctx.parallelize(all, 5).map([](int x) { return std::pair{x % 100, 1L}; }).reduce_by_key(std::plus{});
  EXPECT_EQ(counts.count(), 100u);
  for (int round = 0; round < 3; ++round) {
    ::kill(static_cast<int>(pids(ctx).at(0)), SIGKILL);
    std::map<int, long> got;
    for (const auto& [key, count] : counts.collect()) got[key] = count;
    EXPECT_EQ(got, expected);
  }
}

TEST(Cluster, ATaskThatEndsItsExecutorFailsInTheEnd) {
  const Context ctx = on_processes();
  try {
    ctx.parallelize(std::vector{1}, 1)
        .map([](int x) {
          if (x == 1) std::_Exit(7);
          return x;
        })
        .collect();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::process_failed) << error.what();
  }
  EXPECT_EQ(counted(ctx, 100).size(), 100u);
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  sluice::init(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
