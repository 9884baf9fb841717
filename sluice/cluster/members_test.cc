#include "sluice/cluster/members.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/core/program.h"
#include "sluice/testkit/simulation.h"

namespace sluice::detail {
namespace {

using namespace std::chrono_literals;

/// A driver's members, and an executor that says what the test lets it say.
class MembersTest : public ::testing::Test {
 protected:
  static constexpr const char* token = "the token";

  /// Calls `body` in a simulation with the members of a driver.
  template <class Body>
  void run(const Body& body) {
    sim.run([&] {
      Members::Options options;
      options.token = token;
      options.timeout = 1s;
      options.on_message = [&](ExecutorId, std::string_view message) { messages.emplace_back(message); };
      options.on_lost = [&](ExecutorId id) {
        lost.push_back(id);
        lost_at = sim.clock().now();
      };
      Members members(sim, sim.transport().listen(Address::tcp("127.0.0.1", 0)), std::move(options));
      body(members);
    });
  }
  std::unique_ptr<Channel> connect(Members& members) {
    return std::make_unique<Channel>(sim, sim.transport().connect(members.address(), sim.clock().now() + 1s));
  }
  static Hello hello() {
    Hello hello;
    hello.build = build_of_program();
    hello.token = token;
    hello.address = "127.0.0.1:1";
    hello.cores = 1;
    return hello;
  }
  /// An executor that is welcome and has been told of the others.
  std::unique_ptr<Channel> join(Members& members) {
    auto channel = connect(members);
    channel->send(encode_message(hello()));
    EXPECT_EQ(decode_message<Welcome>(*channel->receive()).refusal, "");
    EXPECT_EQ(message_kind(*channel->receive()), Peers::kind);
    EXPECT_TRUE(members.wait_for(1, 1s));
    return channel;
  }
  std::string refusal(Members& members, const std::string& first) {
    const auto channel = connect(members);
    try {
      channel->send(first);
      const auto answer = channel->receive(sim.clock().now() + 1min);
      if (answer.has_value()) return decode_message<Welcome>(*answer).refusal;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::network_failed);
    }
    return "the connection has ended";
  }

  testing::Simulation sim{1, {.message_delay_max = 1ms}};
  std::vector<std::string> messages;
  std::vector<ExecutorId> lost;
  Time lost_at{};
};

TEST_F(MembersTest, GivesUpWhoIsSilentWithinTheTimeout) {
  run([&](Members& members) {
    const auto silent = join(members);
    const Time begun = sim.clock().now();
    while (lost.empty()) sim.wait_for(10ms);
    EXPECT_GE(lost_at - begun, 900ms);
    EXPECT_LE(lost_at - begun, 1'250ms);
    EXPECT_TRUE(members.ready().empty());
  });
}

TEST_F(MembersTest, TellsEachOfAllAndFromThenOnOfWhoComesAndWhoGoes) {
  run([&](Members& members) {
    using Ids = std::vector<ExecutorId>;
    const auto heard = [](Channel& channel) {
      const auto peers = decode_message<Peers>(*channel.receive());
      Ids come;
      for (const Peers::Peer& peer : peers.come) come.push_back(peer.id);
      return std::pair{come, peers.gone};
    };
    const auto come = [&] {
      auto channel = connect(members);
      channel->send(encode_message(hello()));
      EXPECT_EQ(decode_message<Welcome>(*channel->receive()).refusal, "");
      return channel;
    };
    const auto first = come();
    EXPECT_EQ(heard(*first), (std::pair{Ids{1}, Ids{}}));
    auto second = come();
    EXPECT_EQ(heard(*second), (std::pair{Ids{1, 2}, Ids{}}));
    EXPECT_EQ(heard(*first), (std::pair{Ids{2}, Ids{}}));
    second->close();
    EXPECT_EQ(heard(*first), (std::pair{Ids{}, Ids{2}}));
    const auto third = come();
    EXPECT_EQ(heard(*third), (std::pair{Ids{1, 3}, Ids{}}));
    EXPECT_EQ(heard(*first), (std::pair{Ids{3}, Ids{}}));
    EXPECT_TRUE(members.wait_for(2, 1s));
    EXPECT_EQ(members.ready(), (Ids{1, 3}));
    members.leave(1);
    EXPECT_EQ(members.ready(), Ids{3});
    EXPECT_EQ(members.leaving(), Ids{1});
    members.leave(3);
    EXPECT_EQ(members.ready(), (Ids{1, 3}));
    EXPECT_EQ(members.leaving(), Ids{});
  });
}

TEST_F(MembersTest, TellsManyThatComeAtOnceInFewMessages) {
  run([&](Members& members) {
    constexpr std::size_t count = 50;
    std::size_t told = 0;
    std::vector<std::unique_ptr<Channel>> channels(count);
    std::vector<std::unique_ptr<Thread>> threads;
    for (std::unique_ptr<Channel>& channel : channels) {
      threads.push_back(sim.spawn("executor", [&] {
        channel = connect(members);
        channel->send(encode_message(hello()));
        EXPECT_EQ(decode_message<Welcome>(*channel->receive()).refusal, "");
        for (std::size_t known = 0; known < count; ++told) {
          known += decode_message<Peers>(*channel->receive()).come.size();
        }
      }));
    }
    for (const auto& thread : threads) thread->join();
    EXPECT_LT(told, count * count / 2);
  });
}

TEST_F(MembersTest, KeepsWhoGivesSignsOfLife) {
  run([&](Members& members) {
    const auto executor = join(members);
    for (int i = 0; i < 50; ++i) {
      executor->send(encode_message(Heartbeat{}));
      sim.wait_for(900ms);
    }
    EXPECT_EQ(members.ready().size(), 1u);
    EXPECT_TRUE(lost.empty());
    executor->close();
    while (lost.empty()) sim.wait_for(1ms);
    EXPECT_EQ(lost, std::vector<ExecutorId>{1});
  });
}

TEST_F(MembersTest, RefusesWhoDoesNotBelongHereAndSaysWhy) {
  run([&](Members& members) {
    Hello other = hello();
    other.token = "another";
    EXPECT_EQ(refusal(members, encode_message(other)), "its token is wrong");
    other = hello();
    ++other.build;
    EXPECT_EQ(refusal(members, encode_message(other)), "it runs another build of the program");
    other = hello();
    ++other.version;
    EXPECT_EQ(refusal(members, encode_message(other)), "it speaks version 3 of the protocol, not 2");
    other = hello();
    other.cores = 0;
    EXPECT_EQ(refusal(members, encode_message(other)), "it is no executor");
    EXPECT_EQ(refusal(members, "garbage"), "the connection has ended");
    EXPECT_EQ(refusal(members, std::string(1 << 20, 'x')), "the connection has ended");
    EXPECT_TRUE(members.ready().empty());
  });
}

TEST_F(MembersTest, GivesTheAnswerOfARequestOrSaysThatTheExecutorIsLost) {
  run([&](Members& members) {
    const auto executor = join(members);
    const auto answering = sim.spawn("executor", [&] {
      for (int i = 0; i < 2; ++i) {
        const auto request = decode_message<StateRequest>(*executor->receive());
        StateReply reply;
        reply.request = request.request;
        reply.number = request.number + 1;
        if (i == 1) reply.error = "no such state";
        executor->send(encode_message(reply));
      }
      executor->receive();  // the third one, and no answer
      executor->close();
    });
    StateRequest request;
    request.number = 5;
    EXPECT_EQ(members.call(1, request).number, 6);
    const auto why = [&] {
      try {
        members.call(1, request);
      } catch (const Error& error) {
        return error.details().why;
      }
      return std::string("nothing");
    };
    EXPECT_EQ(why(), "no such state");
    EXPECT_EQ(why(), "executor 1 is lost");
    answering->join();
    EXPECT_EQ(why(), "executor 1 is lost");
  });
}

TEST_F(MembersTest, GivesTheAnswersOfManyRequestsInTheirOrderAndSaysWhereThereIsNone) {
  run([&](Members& members) {
    const auto executor = join(members);
    const auto answering = sim.spawn("executor", [&] {
      std::vector<StateRequest> asked;
      // All of them are asked before the first is answered.
      for (int i = 0; i < 3; ++i) asked.push_back(decode_message<StateRequest>(*executor->receive()));
      for (const int i : {2, 0}) {
        StateReply reply;
        reply.request = asked[static_cast<std::size_t>(i)].request;
        reply.number = asked[static_cast<std::size_t>(i)].number;
        if (i == 0) reply.error = "it is not here";
        executor->send(encode_message(reply));
      }
      executor->close();
    });
    std::vector<std::pair<ExecutorId, StateRequest>> requests(4, {ExecutorId{1}, StateRequest{}});
    for (int i = 0; i < 4; ++i) requests[static_cast<std::size_t>(i)].second.number = 10 + i;
    requests[3].first = 7;
    const std::vector<StateReply> replies = members.call_all(std::move(requests));
    ASSERT_EQ(replies.size(), 4u);
    EXPECT_EQ(replies[0].error, "it is not here");
    EXPECT_EQ(replies[1].error, "executor 1 is lost");
    EXPECT_EQ(replies[2].number, 12);
    EXPECT_EQ(replies[2].error, "");
    EXPECT_EQ(replies[3].error, "executor 7 is lost");
    answering->join();
  });
}

}  // namespace
}  // namespace sluice::detail
