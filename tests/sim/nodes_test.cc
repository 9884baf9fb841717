// What driver and executors say to each other, counted: the laws that docs/scale.md reckons with.
//
// To see the figures, for any number of executors (100 take 10 s and 20 GB of addresses):
//
//     SLUICE_NODES=100 sluice_sim_test --gtest_filter='Nodes.Print*'
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/cluster/messages.h"
#include "sluice/cluster/scheduler.h"
#include "sluice/runtime/process.h"
#include "sluice/sluice.h"
#include "sluice/testkit/forwarding_runtime.h"
#include "sluice/testkit/simulation.h"
#include "sluice/testkit/testing.h"

namespace sluice::testing {
namespace {

using namespace std::chrono_literals;
using sluice::detail::Fetch;
using sluice::detail::Fetched;
using sluice::detail::Forget;
using sluice::detail::Heartbeat;
using sluice::detail::Peers;
using sluice::detail::RunTasks;
using sluice::detail::StateChanges;
using sluice::detail::StateRequest;
using sluice::detail::Taken;
using sluice::detail::TaskDone;

enum class Way : std::uint8_t { driver_says, driver_hears, executor_asks, executor_answers };

struct Flow {
  std::uint64_t messages = 0;
  std::uint64_t bytes = 0;
  Flow operator-(const Flow& other) const { return {messages - other.messages, bytes - other.bytes}; }
};

/// What has been said, by way and kind of message.
struct Traffic {
  std::map<std::pair<Way, std::uint8_t>, Flow> flows;
  std::map<Way, std::uint64_t> connections;
  Flow of(Way way, std::uint8_t kind) const {
    const auto found = flows.find({way, kind});
    return found == flows.end() ? Flow{} : found->second;
  }
  /// Of all kinds but signs of life, which come by time.
  Flow of(Way way) const {
    Flow all;
    for (const auto& [what, flow] : flows) {
      if (what.first != way || what.second == Heartbeat::kind) continue;
      all.messages += flow.messages;
      all.bytes += flow.bytes;
    }
    return all;
  }
  Traffic operator-(const Traffic& before) const {
    Traffic since;
    for (const auto& [what, flow] : flows) since.flows[what] = flow - before.of(what.first, what.second);
    return since;
  }
};

/// Finds the frames of channel.h in what one end writes.
class CountedConnection : public Connection {
 public:
  CountedConnection(std::unique_ptr<Connection> inner, Traffic& traffic, Way way)
      : inner_(std::move(inner)), traffic_(traffic), way_(way) {
    ++traffic.connections[way];
  }
  std::optional<std::size_t> read(std::span<char> into, Time deadline) override { return inner_->read(into, deadline); }
  void write(std::string_view bytes, Time deadline) override {
    count(bytes);
    inner_->write(bytes, deadline);
  }
  void close() override { inner_->close(); }
  void close_with(std::string_view last_words) override { inner_->close_with(last_words); }
  std::string peer() const override { return inner_->peer(); }

 private:
  static constexpr std::size_t header_bytes = 8;

  void count(std::string_view bytes) {
    while (!bytes.empty()) {
      if (left_ == 0) {
        ASSERT_GE(bytes.size(), header_bytes);  // a header is written at once
        left_ = Decoder(bytes).u32();
        ASSERT_LT(left_, 1U << 30);  // one frame a message in these tests
        bytes.remove_prefix(header_bytes);
        is_new_ = true;
        if (bytes.empty()) return;
      }
      Flow* const flow = &traffic_.flows[{way_, is_new_ ? kind_ = static_cast<std::uint8_t>(bytes[0]) : kind_}];
      if (std::exchange(is_new_, false)) {
        ++flow->messages;
        flow->bytes += header_bytes;
      }
      const std::size_t size = std::min<std::size_t>(left_, bytes.size());
      flow->bytes += size;
      left_ -= static_cast<std::uint32_t>(size);
      bytes.remove_prefix(size);
    }
  }

  const std::unique_ptr<Connection> inner_;
  Traffic& traffic_;
  const Way way_;
  std::uint32_t left_ = 0;
  bool is_new_ = false;
  std::uint8_t kind_ = 0;
};

/// The driver is who listens first.
class CountedTransport : public Transport {
 public:
  CountedTransport(Transport& inner, Traffic& traffic) : inner_(inner), traffic_(traffic) {}
  /// From now on another driver is.
  void expect_driver() { driver_.clear(); }
  std::unique_ptr<Connector> connector(const Address& address) override {
    return std::make_unique<CountedConnector>(inner_.connector(address), traffic_,
                                              address.text == driver_ ? Way::driver_hears : Way::executor_asks);
  }
  std::unique_ptr<Listener> listen(const Address& address) override { return counted(inner_.listen(address)); }
  std::unique_ptr<Listener> listen_anywhere(const Address& address) override {
    return counted(inner_.listen_anywhere(address));
  }

 private:
  struct CountedConnector : Connector {
    CountedConnector(std::unique_ptr<Connector> of, Traffic& to, Way by) : inner(std::move(of)), traffic(to), way(by) {}
    std::unique_ptr<Connection> connect(Time deadline) override {
      return std::make_unique<CountedConnection>(inner->connect(deadline), traffic, way);
    }
    void close() override { inner->close(); }
    const std::unique_ptr<Connector> inner;
    Traffic& traffic;
    const Way way;
  };
  struct CountedListener : Listener {
    CountedListener(std::unique_ptr<Listener> of, Traffic& to, Way by) : inner(std::move(of)), traffic(to), way(by) {}
    std::unique_ptr<Connection> accept(Time deadline) override {
      auto connection = inner->accept(deadline);
      if (connection == nullptr) return nullptr;
      return std::make_unique<CountedConnection>(std::move(connection), traffic, way);
    }
    Address address() const override { return inner->address(); }
    void close() override { inner->close(); }
    const std::unique_ptr<Listener> inner;
    Traffic& traffic;
    const Way way;
  };
  std::unique_ptr<Listener> counted(std::unique_ptr<Listener> listener) {
    const bool is_driver = driver_.empty();
    if (is_driver) driver_ = listener->address().text;
    return std::make_unique<CountedListener>(std::move(listener), traffic_,
                                             is_driver ? Way::driver_says : Way::executor_answers);
  }

  Transport& inner_;
  Traffic& traffic_;
  std::string driver_;
};

class CountedRuntime : public ForwardingRuntime {
 public:
  CountedRuntime(Runtime& inner, Traffic& traffic) : ForwardingRuntime(inner), transport_(inner.transport(), traffic) {}
  CountedTransport& transport() override { return transport_; }

 private:
  CountedTransport transport_;
};

std::uint64_t bytes_in(FileSystem& files, const std::string& directory) {
  std::uint64_t bytes = 0;
  for (const FileInfo& file : files.list(directory).value_or(std::vector<FileInfo>())) bytes += file.size_bytes;
  return bytes;
}

constexpr std::size_t words_a_partition = 10;

/// As many words from each number.
DStream<std::pair<int, long>> words_of(const DStream<int>& numbers) {
  return numbers.flat_map([](int number) {
    std::vector<std::pair<int, long>> words;
    for (std::size_t i = 0; i < words_a_partition; ++i) {
      words.emplace_back(number * 7919 + static_cast<int>(i) * 104729, 1L);
    }
    return words;
  });
}

/// How the words are counted: by key over all batches, by key over all of them that a batch has, or just all of them.
enum class Job : std::uint8_t { state, total };

/// A simulated cluster that counts words in as many partitions as there are executors.
class Nodes {
 public:
  explicit Nodes(std::size_t nodes, Duration checkpoint_interval = 1h, Duration message_delay_max = 200us)
      : nodes_(nodes),
        sim(nodes, {.message_delay_max = message_delay_max}),
        runtime_(sim, traffic),
        checkpoint_interval_(checkpoint_interval) {}

  /// Calls `body` with a test; again: with another driver, on the same disk.
  template <class Body>
  void live(Job job, const Body& body) {
    sim.run([&] {
      runtime_.transport().expect_driver();
      StreamTestOptions options{.batch = 1s, .partitions = nodes_, .cores = 1};
      options.executors = nodes_;
      options.checkpoint = "/nodes";
      options.checkpoint_interval = checkpoint_interval_;
      options.runtime = &runtime_;
      options.check_views = false;
      StreamTest t(options);
      std::vector<int> numbers;
      for (std::size_t p = 0; p < nodes_; ++p) numbers.push_back(static_cast<int>(p));
      const auto words = words_of(t.stream<int>(std::vector(20, numbers)));
      const auto sum = [](std::span<const long> values, std::optional<long> before) -> std::optional<long> {
        long all = before.value_or(0);
        for (const long value : values) all += value;
        return all;
      };
      output_ = t.output(job == Job::state ? words.update_state_by_key(sum).count() : words.count());
      body(t);
    });
  }
  /// What is said while so many batches run.
  Traffic run(StreamTest& t, std::size_t batches) {
    const Traffic before = traffic;
    t.run(batches);
    took = sim.clock().now() - output_.batches().back().time;
    return traffic - before;
  }
  std::uint64_t journal_bytes() { return bytes_in(sim.files(), "/nodes/journal"); }

 private:
  const std::size_t nodes_;

 public:
  Simulation sim;
  Traffic traffic;
  /// From the time of the last batch to its end.
  Duration took{};

 private:
  CountedRuntime runtime_;
  const Duration checkpoint_interval_;
  Output<std::int64_t> output_;
};

std::uint64_t tasks_of(const StreamTest& t) { return t.context().engine()->runner().counters().tasks; }

void print(const char* what, const Traffic& traffic) {
  std::printf("  %s\n", what);
  const std::array<const char*, 4> names{"driver says", "driver hears", "executors ask", "executors answer"};
  for (const auto& [about, flow] : traffic.flows) {
    if (flow.messages == 0) continue;
    std::printf("    %-17s kind %2d %10llu messages %12llu bytes\n", names.at(static_cast<std::size_t>(about.first)),
                about.second, static_cast<unsigned long long>(flow.messages),
                static_cast<unsigned long long>(flow.bytes));
  }
}

TEST(Nodes, WhatTheDriverSaysInABatchIsTwoMessagesToEachExecutorAndWhatItHearsOneOfEachTask) {
  for (const std::uint64_t n : {4, 8, 16, 32}) {
    Nodes nodes(n);
    nodes.live(Job::state, [&](StreamTest& t) {
      nodes.run(t, 3);
      const std::uint64_t tasks_before = tasks_of(t);
      const std::uint64_t journal_before = nodes.journal_bytes();
      const Traffic batch = nodes.run(t, 1);
      const std::uint64_t tasks = tasks_of(t) - tasks_before;
      EXPECT_EQ(tasks, 2 * n + 1);
      // Tasks of some 64 KB go out together.
      EXPECT_EQ(batch.of(Way::driver_says).messages, 2 * n);
      EXPECT_EQ(batch.of(Way::driver_says, RunTasks::kind).messages, n);
      EXPECT_EQ(batch.of(Way::driver_says, Forget::kind).messages, n);
      EXPECT_EQ(batch.of(Way::driver_hears).messages, tasks);
      EXPECT_EQ(batch.of(Way::driver_hears, TaskDone::kind).messages, tasks);
      // Each task that reads a shuffle is told where all of its parts are: four bytes each.
      EXPECT_LE(batch.of(Way::driver_says).bytes, 4 * n * (n + 1) + 700 * tasks);
      EXPECT_GE(batch.of(Way::driver_says).bytes, 4 * n * (n + 1) + 400 * tasks);
      EXPECT_LE(batch.of(Way::driver_hears).bytes, 80 * tasks);
      EXPECT_LE(nodes.journal_bytes() - journal_before, 200);
    });
  }
}

TEST(Nodes, AShuffleIsAQuestionOfEachExecutorToEachOtherAndAConnectionEach) {
  for (const std::uint64_t n : {4, 8, 16, 32}) {
    Nodes nodes(n);
    nodes.live(Job::state, [&](StreamTest& t) {
      nodes.run(t, 3);
      const Traffic batch = nodes.run(t, 1);
      // The count at the end has one task that asks all others.
      EXPECT_EQ(batch.of(Way::executor_asks, Fetch::kind).messages, n * (n - 1) + n - 1);
      EXPECT_EQ(batch.of(Way::executor_answers, Fetched::kind).messages, n * (n - 1) + n - 1);
      EXPECT_EQ(batch.of(Way::executor_asks, StateChanges::kind).messages, n);
      EXPECT_EQ(batch.of(Way::executor_answers, Taken::kind).messages, n);
      EXPECT_EQ(nodes.traffic.connections[Way::executor_asks], n * (n - 1));
      EXPECT_EQ(nodes.traffic.connections[Way::driver_says], n);
    });
  }
}

TEST(Nodes, WhatExecutorsAreToldOfEachOtherGrowsWithTheSquareOfTheirNumberAtMost) {
  for (const std::uint64_t n : {4, 8, 16, 32, 64}) {
    Nodes nodes(n);
    nodes.live(Job::total, [&](StreamTest& t) {
      // Each is told of each: its number and address, 24 bytes or so; and in as many messages at most.
      const Flow start = nodes.traffic.of(Way::driver_says, Peers::kind);
      EXPECT_LE(start.bytes, 60 * n * n);
      nodes.run(t, 2);
      t.kill_executor(0);
      const Flow death = nodes.run(t, 2).of(Way::driver_says, Peers::kind);
      EXPECT_EQ(death.messages, n - 1 + n);
      EXPECT_LE(death.bytes, 120 * n);
    });
  }
}

// All tasks of the batch are told at once (1 delay). The first shuffle is asked for and answered (2); who reads the
// second has asked long before. Changes of state go to their copy and back (2) before the driver is told (1).
TEST(Nodes, ABatchWaitsForTheDriverOnceHoweverManyShufflesItHas) {
  constexpr Duration delay_max = 20ms;
  Nodes nodes(8, 1h, delay_max);
  nodes.live(Job::state, [&](StreamTest& t) {
    nodes.run(t, 3);
    Duration longest{};
    for (int i = 0; i < 50; ++i) {
      nodes.run(t, 1);
      longest = std::max(longest, nodes.took);
    }
    EXPECT_LE(longest, 6 * delay_max);
  });
}

TEST(Nodes, ACheckpointAsksForAllPartitionsAtTheSameTime) {
  constexpr Duration delay_max = 20ms;
  Nodes nodes(32, 1s, delay_max);
  nodes.live(Job::state, [&](StreamTest& t) {
    Duration longest{};
    for (int i = 0; i < 20; ++i) {
      nodes.run(t, 1);
      if (i > 3) longest = std::max(longest, nodes.took);
    }
    EXPECT_LE(longest, 9 * delay_max);  // of which the batch may have six
  });
}

TEST(Nodes, SignsOfLifeAreFiveASecondForEachExecutor) {
  for (const std::uint64_t n : {4, 16}) {
    Nodes nodes(n);
    nodes.live(Job::total, [&](StreamTest& t) {
      nodes.run(t, 1);
      const Traffic rest = nodes.run(t, 10);
      EXPECT_NEAR(static_cast<double>(rest.of(Way::driver_hears, Heartbeat::kind).messages),
                  50.0 * static_cast<double>(n), static_cast<double>(n));
    });
  }
}

TEST(Nodes, TheDeathOfOneCostsTheSameQuestionsHoweverManyThereAre) {
  for (const std::uint64_t n : {4, 8, 16, 32}) {
    Nodes nodes(n);
    nodes.live(Job::state, [&](StreamTest& t) {
      nodes.run(t, 3);
      t.kill_executor(n / 2);
      const Traffic death = nodes.run(t, 2);
      EXPECT_LE(death.of(Way::driver_says, StateRequest::kind).messages, 8);
    });
  }
}

TEST(Nodes, ADriverThatBeginsWithACheckpointAsksForEachPartitionInTurn) {
  for (const std::uint64_t n : {4, 8, 16}) {
    Nodes nodes(n, 1s);
    nodes.live(Job::state, [&](StreamTest& t) { nodes.run(t, 5); });
    nodes.traffic = {};
    nodes.live(Job::state, [&](StreamTest& t) {
      nodes.run(t, 6);
      const Flow asked = nodes.traffic.of(Way::driver_says, StateRequest::kind);
      EXPECT_GE(asked.messages, 6 * n);
      EXPECT_LE(asked.messages, 20 * n);
    });
  }
}

TEST(Nodes, Print) {
  const std::string wanted = environment("SLUICE_NODES").value_or("");
  if (wanted.empty()) GTEST_SKIP() << "without SLUICE_NODES";
  const auto n = static_cast<std::size_t>(std::stoi(wanted));
  // As many connections as these have the simulation does not make.
  const Job job = n > 120 ? Job::total : Job::state;
  {
    Nodes nodes(n);
    nodes.live(job, [&](StreamTest& t) {
      print("start", nodes.traffic);
      nodes.run(t, 3);
      const std::uint64_t journal_before = nodes.journal_bytes();
      print("a batch", nodes.run(t, 1));
      std::printf("    takes %s, %llu bytes of journal\n", to_string(nodes.took).c_str(),
                  static_cast<unsigned long long>(nodes.journal_bytes() - journal_before));
      t.kill_executor(n / 2);
      const Traffic death = nodes.run(t, 1);
      std::printf("  a batch after a death takes %s\n", to_string(nodes.took).c_str());
      print("which is", death);
    });
  }
  if (n > 120) return;
  Nodes nodes(n, 1s);
  nodes.live(job, [&](StreamTest& t) { nodes.run(t, 5); });
  nodes.traffic = {};
  const Time begun = nodes.sim.clock().now();
  nodes.live(job, [&](StreamTest& t) {
    t.start();
    std::printf("  a driver that begins again is there after %s\n", to_string(nodes.sim.clock().now() - begun).c_str());
    print("which is", nodes.traffic);
    print("  and the next batch with a checkpoint", nodes.run(t, 7));
  });
}

}  // namespace
}  // namespace sluice::testing
