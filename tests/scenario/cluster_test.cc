// own main
// Programs on executors that are processes of this binary.
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/cluster/scheduler.h"
#include "sluice/runtime/certificates.h"
#include "sluice/runtime/process.h"
#include "sluice/sluice.h"
#include "sluice/testkit/testing.h"
#include "tests/scenario/cluster_jobs.h"
#include "tests/scenario/lives.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;

// Patient, since the machine that runs tests may be busy.
Context on_processes(std::size_t executors = 2, Duration timeout = 20s) {
  return Context{{.master = "local-cluster[" + std::to_string(executors) + ",1]",
                  .partitions = 3,
                  .hash_seed = 42,
                  .executor_timeout = timeout}};
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

// ---- What travels

int negate(int x) { return -x; }

/// `make(context)` is an RDD; its records are the same, in the same order, in threads and in other processes.
template <class Make>
void expect_same_there(const Make& make) {
  const Context here{{.master = "local[2]", .partitions = 3, .hash_seed = 42}};
  const Context there = on_processes();
  const auto expected = make(here).collect().to_vector();
  EXPECT_EQ(make(there).collect().to_vector(), expected);
  EXPECT_FALSE(expected.empty());
}

TEST(Cluster, NarrowOperatorsGiveTheSame) {
  const int offset = 7;
  expect_same_there([offset](const Context& ctx) {
    return ctx.parallelize(std::vector{1, 2, 3, 4, 5})
        .map([offset](int x) { return x + offset; })
        .map(negate)
        .flat_map([](int x) { return std::vector<int>(2, x); })
        .filter([](int x) { return x % 2 == 0; })
        .map_partitions([](Partition<int>& partition) {
          std::vector<std::string> all{std::to_string(partition.index())};
          for (const int x : partition) all.push_back("number " + std::to_string(x));
          return all;
        });
  });
}

TEST(Cluster, TextAndValuesPassedByWithTravel) {
  expect_same_there([](const Context& ctx) {
    return ctx.parallelize(std::vector<std::string_view>{"a b", "a text that is long enough to lie elsewhere"}, 1)
        .flat_map(split(' '))
        .map(with(std::string("prefix of some length "), [](const std::string& prefix, std::string_view w) {
          return std::pair(prefix + std::string(w), std::string(w));
        }));
  });
}

TEST(Cluster, KeysAreHashedAlike) {
  std::vector<std::pair<int, int>> values;
  for (int i = 0; i < 200; ++i) values.emplace_back(i * 31 % 17, i);
  expect_same_there([&](const Context& ctx) { return ctx.parallelize(values, 5).reduce_by_key(std::plus{}); });
  expect_same_there([&](const Context& ctx) { return ctx.parallelize(values, 1).group_by_key(4); });
}

TEST(Cluster, WhatTasksAddToAccumulatorsComesBack) {
  const Context ctx = on_processes();
  const Accumulator sum = ctx.accumulator();
  ctx.parallelize(std::vector{1, 2, 3}, 2)
      .map([sum](int x) {
        sum.add(x);
        return x;
      })
      .collect();
  EXPECT_EQ(ctx.value_of(sum), 6);
}

int made_here = 0;

TEST(Cluster, ObjectsPerProcessAreMadeThereOnce) {
  const Context ctx = on_processes(1);
  const auto counter = per_process<int>([] { return ++made_here; });
  const auto rdd = ctx.parallelize(std::vector{10, 20}, 2).map([counter](int x) { return x + *counter; });
  for (int i = 0; i < 2; ++i) EXPECT_EQ(rdd.collect().to_vector(), (std::vector{11, 21}));
  EXPECT_EQ(made_here, 0);
}

TEST(Cluster, AUsersErrorComesBackAsInThreads) {
  const auto error_of = [](const Context& ctx) -> std::string {
    try {
      ctx.parallelize(std::vector{1, 2, 3}, 1)
          .map([](int x) {
            if (x == 3) throw std::runtime_error("three is refused");
            return x;
          })
          .name("refuses three")
          .collect();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  const std::string here = error_of(Context{{.master = "local"}});
  const Context there = on_processes();
  EXPECT_EQ(error_of(there), here);
  EXPECT_NE(here.find("three is refused"), std::string::npos) << here;
  EXPECT_NE(here.find("record 2 of partition 0"), std::string::npos) << here;
  // The processes live on.
  EXPECT_EQ(there.parallelize(std::vector{1}, 1).count(), 1u);
}

// Both are cached, on different executors, and read by one task.
TEST(Cluster, ATaskReadsCachedPartitionsOfSeveralExecutors) {
  const Context ctx = on_processes();
  FileSystem& files = ctx.runtime().files();
  const std::string fails_once = "/tmp/sluice-cluster-test-" + std::to_string(ctx.runtime().random_seed());
  const Accumulator made = ctx.accumulator();
  const auto keyed = [&](int value, const std::string& fails) {
    return ctx.parallelize(std::vector{std::pair{1, value}, std::pair{2, value}}, 1)
        .reduce_by_key(std::plus{}, 1)
        .map_values(with(fails,
                         [made](const std::string& path, int x) {
                           // A task that has failed is tried again on the other executor.
                           if (system_runtime().files().stat(path).has_value()) {
                             system_runtime().files().remove(path);
                             throw std::runtime_error("fails once");
                           }
                           made.add(1);
                           return x;
                         }))
        .cache();
  };
  const auto left = keyed(10, fails_once);
  const auto right = keyed(20, fails_once);
  EXPECT_EQ(left.count(), 2u);
  files.publish(fails_once, "");
  EXPECT_EQ(right.count(), 2u);
  EXPECT_EQ(ctx.value_of(made), 4);
  EXPECT_FALSE(files.stat(fails_once).has_value());
  std::map<int, std::pair<int, int>> joined;
  for (const auto& [key, both] : left.join(right, 1).collect()) joined[key] = both;
  EXPECT_EQ(joined, (std::map<int, std::pair<int, int>>{{1, {10, 20}}, {2, {10, 20}}}));
  EXPECT_EQ(ctx.value_of(made), 4) << "none was made again";
}

// ---- What executors print

TEST(Cluster, WhatExecutorsPrintIsShownHereLineByLineWithTheirNumbers) {
  const std::string shown = shown_by([] { print_numbers(on_processes(), 400, " of a task"); });
  std::istringstream lines(shown);
  std::set<std::string> got;
  for (std::string line; std::getline(lines, line);) {
    EXPECT_TRUE(line.starts_with("[executor 1] ") || line.starts_with("[executor 2] ")) << line;
    got.insert(line.substr(line.find(']') + 2));
  }
  EXPECT_EQ(got.size(), 800u);
  EXPECT_TRUE(got.contains("number 0 of a task"));
  EXPECT_TRUE(got.contains("result 399 of a task"));
}

TEST(Cluster, TheLastWordsOfAnExecutorThatCrashesAreShownThoughItIsInTheMiddleOfALine) {
  const std::string shown = shown_by([] {
    try {
      on_processes(1)
          .parallelize(std::vector{1}, 1)
          .map([](int x) {
            if (x == 1) {
              std::fprintf(stderr, "something is wrong he");
              std::abort();
            }
            return x;
          })
          .collect();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::process_failed) << error.what();
    }
  });
  EXPECT_NE(shown.find("[executor 1] something is wrong he\n"), std::string::npos) << shown;
  EXPECT_NE(shown.find("ended with status 134"), std::string::npos) << shown;
}

// ---- Executors end

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

TEST(Cluster, ATaskThatEndsItsExecutorFailsInTheEndWhateverTheStatus) {
  const Context ctx = on_processes();
  for (const int status : {7, 0}) {
    try {
      ctx.parallelize(std::vector{1}, 1)
          .map([status](int x) {
            if (x == 1) std::_Exit(status);
            return x;
          })
          .collect();
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::process_failed) << error.what();
    }
    EXPECT_EQ(counted(ctx, 100).size(), 100u);
  }
}

TEST(Cluster, AnExecutorOnWhichTasksFailThatSucceedElsewhereIsGivenUp) {
  const Context ctx = on_processes();
  const auto bad = static_cast<int>(pids(ctx).at(0));
  for (int job = 0; job < 6; ++job) {
    const auto doubled = ctx.parallelize(std::vector{1, 2, 3, 4}, 2).map([bad](int x) {
      if (process_id() == bad) throw std::runtime_error("a library is missing here");
      return 2 * x;
    });
    EXPECT_EQ(doubled.collect().to_vector(), (std::vector{2, 4, 6, 8}));
  }
  ASSERT_TRUE(members_of(ctx).wait_for(2, 10s));
  const std::vector<std::int64_t> alive = pids(ctx);
  EXPECT_EQ(std::count(alive.begin(), alive.end(), bad), 0);
}

// The first attempt at one of the tasks waits for a file, which comes when all is over.
TEST(Cluster, ASlowTaskIsGivenToAnotherExecutorTooAndTheFirstThatIsDoneCounts) {
  const std::string file = "/tmp/sluice-go-on-" + std::to_string(system_runtime().random_seed());
  const testing::OutsideSetting soon("SLUICE_SPECULATION_MIN", "10");
  const Context ctx{{.master = "local-cluster[2,2]", .partitions = 8, .executor_timeout = 20s, .speculation = true}};
  const Accumulator done = ctx.accumulator();
  std::vector<int> numbers(800);
  std::iota(numbers.begin(), numbers.end(), 0);
  const auto counts = ctx.parallelize(numbers, 8)
                          .map_partitions(with(file,
                                               [done](const std::string& awaited, Partition<int>& partition) {
                                                 const bool is_first = partition.attempt() < 1U << 31;
                                                 while (is_first && partition.index() == 3 &&
                                                        !system_runtime().files().stat(awaited).has_value()) {
                                                   system_runtime().wait_for(1ms);
                                                 }
                                                 done.add(1);
                                                 std::vector<std::pair<int, long>> all;
                                                 for (const int x : partition) all.emplace_back(x % 10, 1L);
                                                 return all;
                                               }))
                          .reduce_by_key(std::plus{})
                          .collect();
  EXPECT_EQ(counts.size(), 10u);
  for (const auto& [key, count] : counts) EXPECT_EQ(count, 80) << key;
  EXPECT_EQ(ctx.value_of(done), 8) << "one attempt of each counts";
  system_runtime().files().publish(file, "");
  EXPECT_EQ(ctx.parallelize(numbers, 8).count(), 800u) << "the other one's executor goes on";
  system_runtime().files().remove(file);
}

using Sums = std::map<std::string, long>;

/// Batch b has keys k0..k(b % 7), each with the value b; what the sums are after each batch.
constexpr int stateful_batches = 24;
std::vector<std::vector<std::pair<std::string_view, long>>> stateful_input() {
  static const std::vector<std::string> keys{"k0", "k1", "k2", "k3", "k4", "k5", "a key that does not fit 16 bytes"};
  std::vector<std::vector<std::pair<std::string_view, long>>> batches;
  for (long b = 0; b < stateful_batches; ++b) {
    batches.emplace_back();
    for (long k = 0; k <= b % 7; ++k) batches.back().emplace_back(keys[static_cast<std::size_t>(k)], b);
  }
  return batches;
}
std::vector<Sums> expected_sums() {
  std::vector<Sums> all;
  Sums sums;
  for (const auto& batch : stateful_input()) {
    for (const auto& [key, value] : batch) sums[std::string(key)] += value;
    all.push_back(sums);
  }
  return all;
}

// Processes get a signal while the stream runs; what comes out is what an undisturbed run gives.
void expect_sums_in_spite_of(int signal, std::size_t state_copies) {
  testing::StreamTest t({.batch = 20ms,
                         .partitions = 3,
                         .cores = 1,
                         .executors = 3,
                         .state_copies = state_copies,
                         .runtime = &system_runtime(),
                         .checkpoint_interval = 100ms});
  auto in = t.stream(stateful_input());
  const auto sums = in.update_state_by_key([](std::span<const long> values, std::optional<long> sum) {
    for (const long value : values) sum = sum.value_or(0) + value;
    return sum;
  });
  const auto out = t.output(sums.map([](const std::pair<std::string_view, long>& sum) {
    return std::pair<std::string, long>(sum.first, sum.second);
  }));
  const auto window =
      t.output(in.reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = 100ms, .slide = 20ms}).count());
  for (int batch = 1; batch <= stateful_batches; ++batch) {
    if (batch % 6 == 0 && batch < stateful_batches) {
      ASSERT_TRUE(members_of(t.context()).wait_for(3, 10s));
      const std::vector<std::int64_t> alive = pids(t.context());
      ::kill(static_cast<int>(alive.at(static_cast<std::size_t>(batch / 6) % alive.size())), signal);
    }
    t.run(1);
  }
  std::vector<Sums> got;
  for (const auto& batch : out.batches()) {
    got.emplace_back();
    for (const auto& [key, sum] : batch.records) got.back()[key] += sum;
  }
  EXPECT_EQ(got, expected_sums());
  ASSERT_EQ(window.batches().size(), static_cast<std::size_t>(stateful_batches));
  for (int b = 0; b < stateful_batches; ++b) {
    int keys = 0;
    for (int in_window = std::max(0, b - 4); in_window <= b; ++in_window) keys = std::max(keys, in_window % 7 + 1);
    const auto& counts = window.batches()[static_cast<std::size_t>(b)].records;
    EXPECT_EQ(counts.to_vector(), (std::vector<std::int64_t>{keys})) << b;
  }
}

TEST(Cluster, AStreamWithStateGoesOnWhenExecutorsAreKilled) { expect_sums_in_spite_of(SIGKILL, 2); }
// They leave when others have what they had: also the only copy of state.
TEST(Cluster, AStreamWithStateGoesOnWhenExecutorsAreToldToEnd) {
  expect_sums_in_spite_of(SIGTERM, 2);
  expect_sums_in_spite_of(SIGTERM, 1);
}
// It goes to all processes of a terminal, and the driver deals with it.
TEST(Cluster, AnInterruptIsNothingToExecutors) { expect_sums_in_spite_of(SIGINT, 1); }

using Counted = std::pair<int, long>;  // the process and a number

/// Numbers in order, from behind the last one that is stored.
struct CountingReceiver : Receiver<Counted> {
  void run(ReceiverContext<Counted>& context) override {
    const std::string position = context.last_position();
    for (long next = position.empty() ? 0 : std::stol(position);;) {
      std::vector<Counted> some;
      for (int i = 0; i < 7; ++i) some.emplace_back(process_id(), next++);
      if (!context.store(some, std::to_string(next)) || !context.wait_for(2ms)) return;
    }
  }
};

struct ReceiverPlaces : StreamingListener {
  std::set<std::string> started;
  std::vector<std::string> errors;
  void on_receiver_started(const ReceiverInfo& info) override { started.insert(info.place); }
  void on_receiver_error(const ReceiverInfo& info) override { errors.push_back(info.place + ": " + info.last_error); }
};

// One executor after the other is killed, that of a receiver each time. No checkpoint: the copies of blocks are all
// that there is.
TEST(Cluster, ReceiversRunInExecutorsOneEachAndNothingIsLostWithThem) {
  testing::StreamTest t({.batch = 20ms,
                         .partitions = 3,
                         .cores = 1,
                         .executors = 4,
                         .runtime = &system_runtime(),
                         .without_checkpoint = true});
  std::vector<testing::Output<Counted>> outs;
  for (int i = 0; i < 2; ++i) {
    outs.push_back(
        t.output(t.streaming().receiver_stream<Counted>([] { return std::make_unique<CountingReceiver>(); })));
  }
  const auto places = std::make_shared<ReceiverPlaces>();
  t.streaming().add_listener(places);
  const auto last_process = [&](const testing::Output<Counted>& out) {
    for (auto batch = out.batches().rbegin(); batch != out.batches().rend(); ++batch) {
      if (!batch->records.empty()) return batch->records.back().first;
    }
    return 0;
  };
  std::vector<std::set<int>> processes(2);
  for (int round = 0; round < 4; ++round) {
    const std::size_t victim = static_cast<std::size_t>(round % 2);
    const int before = last_process(outs[victim]);
    if (before != 0) ::kill(before, SIGKILL);
    ASSERT_TRUE(members_of(t.context()).wait_for(3, 10s));
    for (int batch = 0; batch < 5 || last_process(outs[victim]) == before; ++batch) t.run(1);
    ASSERT_TRUE(members_of(t.context()).wait_for(4, 10s));
    t.run(2);  // all that is kept has its copy again
    EXPECT_NE(last_process(outs[0]), last_process(outs[1]));
  }
  for (std::size_t i = 0; i < 2; ++i) {
    long next = 0;
    for (const auto& batch : outs[i].batches()) {
      for (const auto& [process, number] : batch.records) {
        ASSERT_EQ(number, next++) << "receiver " << i;
        processes[i].insert(process);
        EXPECT_NE(process, process_id());
      }
    }
    EXPECT_GE(processes[i].size(), 2u);
  }
  ASSERT_EQ(places->started.size(), processes[0].size() + processes[1].size());
  EXPECT_TRUE(places->started.begin()->starts_with("executor 1, process ")) << *places->started.begin();
  EXPECT_EQ(places->errors.size(), places->started.size() - 2);
  for (const std::string& error : places->errors) EXPECT_TRUE(error.ends_with("is lost")) << error;
}

// It is not dead, but cannot be told from one that is: another one has its part before it wakes up.
TEST(Cluster, AnExecutorThatIsStoppedIsGivenUpAndItsResultsAreNotListenedTo) {
  const Context ctx = on_processes(3, 500ms);
  const auto stopped = static_cast<int>(pids(ctx).at(0));
  ::kill(stopped, SIGSTOP);
  EXPECT_EQ(counted(ctx, 10'000), counted(Context{{.master = "local[2]"}}, 10'000));
  const std::vector<std::int64_t> alive = pids(ctx);
  EXPECT_EQ(std::count(alive.begin(), alive.end(), stopped), 0);
  ::kill(stopped, SIGCONT);
  EXPECT_EQ(counted(ctx, 10'000), counted(Context{{.master = "local[2]"}}, 10'000));
}

TEST(Cluster, WhoHasNoTokenOrAnotherBuildIsRefusedWithTheReason) {
  const Context ctx = on_processes(1);
  const Address driver = members_of(ctx).address();
  const auto answer_to = [&](const std::string& message) -> std::string {
    Runtime& runtime = system_runtime();
    const Time deadline = runtime.clock().now() + 10s;
    detail::Channel channel(runtime, runtime.transport().connect(driver, deadline));
    channel.send(message);
    const auto answer = channel.receive(deadline);
    return answer.has_value() ? detail::decode_message<detail::Welcome>(*answer).refusal : "nothing";
  };
  detail::Hello hello;
  hello.build = detail::build_of_program();
  hello.token = "guessed";
  EXPECT_EQ(answer_to(detail::encode_message(hello)), "its token is wrong");
  EXPECT_EQ(answer_to("garbage"), "nothing");
  EXPECT_EQ(counted(ctx, 100).size(), 100u);
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  sluice::init(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
