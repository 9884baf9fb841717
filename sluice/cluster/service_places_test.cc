#include "sluice/cluster/service_places.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sluice/cluster/handshake.h"
#include "sluice/core/program.h"
#include "sluice/testkit/simulation.h"

namespace sluice::detail {
namespace {

using namespace std::chrono_literals;

/// What services do is nothing to who places them.
class NoMaker : public ServiceMaker {
 public:
  std::unique_ptr<Service> make(ServiceHost&) const override { return nullptr; }
};

/// A driver's services, and executors that do nothing.
class ServicePlacesTest : public ::testing::Test {
 protected:
  template <class Body>
  void run(const Body& body) {
    sim.run([&] {
      Members::Options options;
      options.token = "token";
      options.timeout = 1min;
      options.on_message = [](ExecutorId, std::string_view) {};
      options.on_lost = [](ExecutorId) {};
      Members made(sim, sim.transport().listen(Address::tcp("127.0.0.1", 0)), std::move(options));
      ServicePlaces services(
          made, {1s, true, [](const BlockId&, ExecutorId, ExecutorId) {}, [](const BlockId&, const BlockId&) {}});
      members = &made;
      places = &services;
      body();
      running.clear();
      made.stop();
    });
  }
  /// An executor on a machine that calls itself so, and is reached by that address.
  void join(const std::string& host, const std::string& address, std::uint32_t cores) {
    auto channel = std::make_shared<Channel>(sim, sim.transport().connect(members->address(), Time::max()));
    Hello hello;
    hello.token = "token";
    hello.address = address + ":1";
    hello.cores = cores;
    hello.host = host;
    say_hello(sim, *channel, hello);
    channels.push_back(channel);
    ASSERT_TRUE(members->wait_for(channels.size(), 1s));
  }
  /// The executor that a service is started on.
  ExecutorId start(const std::string& preferred) {
    const std::uint64_t id = running.size() + 1;
    running.push_back(places->start(id, ship<ServiceMaker, NoMaker>(OperatorInfo{}), preferred,
                                    {[](std::string_view, std::optional<BlockId>) {}, [](const std::string&) {}}));
    for (ExecutorId executor = 1; executor <= channels.size(); ++executor) {
      const std::size_t before = std::exchange(has[executor], 0);
      has[executor] = places->count(executor);
      if (has[executor] > before) return executor;
    }
    return 0;
  }

  testing::Simulation sim{1, {}};
  Members* members = nullptr;
  ServicePlaces* places = nullptr;
  std::vector<std::shared_ptr<Channel>> channels;
  std::vector<std::unique_ptr<RunningService>> running;
  std::map<ExecutorId, std::size_t> has;
};

TEST_F(ServicePlacesTest, ServicesAreSpreadEvenly) {
  run([&] {
    join("a", "10.0.0.1", 2);
    join("b", "10.0.0.2", 2);
    EXPECT_EQ(start(""), 1u);
    EXPECT_EQ(start(""), 2u);
    EXPECT_EQ(start(""), 1u);
  });
}

TEST_F(ServicePlacesTest, OneThatPrefersAHostGetsTheExecutorThereThatHasTheFewest) {
  run([&] {
    join("a", "10.0.0.1", 2);
    join("b", "10.0.0.2", 2);
    join("b", "10.0.0.2", 2);
    EXPECT_EQ(start("b"), 2u);
    EXPECT_EQ(start("b"), 3u);
    EXPECT_EQ(start("10.0.0.2"), 2u) << "an address is as good as a name";
    EXPECT_EQ(start("a"), 1u);
  });
}

TEST_F(ServicePlacesTest, OneThatPrefersAHostWithoutAFreeCoreGoesElsewhereAndThatIsSaid) {
  run([&] {
    join("a", "10.0.0.1", 2);
    join("b", "10.0.0.2", 1);
    join("c", "10.0.0.3", 2);
    EXPECT_EQ(start("b"), 2u);
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(start("b"), 1u);
    EXPECT_EQ(start("nowhere"), 3u);
    EXPECT_EQ(::testing::internal::GetCapturedStderr(),
              "sluice: no executor on b has a free core: a receiver that prefers it runs on executor 1\n"
              "sluice: no executor on nowhere has a free core: a receiver that prefers it runs on executor 3\n");
    EXPECT_EQ(start(""), 1u) << "all have one";
  });
}

}  // namespace
}  // namespace sluice::detail
