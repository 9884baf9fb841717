#include "sluice/cluster/log_lines.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/cluster/executor.h"
#include "sluice/cluster/members.h"
#include "sluice/testkit/simulation.h"

namespace sluice::detail {
namespace {

using namespace std::chrono_literals;

class LogQueueTest : public ::testing::Test {
 protected:
  std::function<void(std::string_view)> tell() {
    return [this](std::string_view bytes) {
      const auto message = decode_message<LogLines>(bytes);
      ++messages;
      dropped += message.dropped;
      for (const std::string& line : message.lines) {
        told.push_back(line);
        this->bytes += line.size();
      }
    };
  }

  testing::Simulation sim{1, {}};
  std::vector<std::string> told;
  std::uint64_t dropped = 0;
  std::size_t bytes = 0;
  int messages = 0;
};

TEST_F(LogQueueTest, TellsLinesOfBothStreamsOnceTheyHaveEnded) {
  sim.run([&] {
    LogQueue queue(sim);
    queue.add(OutputStream::standard_error, "one ");
    queue.add(OutputStream::standard_output, "other\n");
    queue.add(OutputStream::standard_error, "line\nhalf");
    queue.send(tell());
    EXPECT_EQ(told, (std::vector<std::string>{"other", "one line"}));
    queue.send(tell());
    EXPECT_EQ(messages, 1) << "there is nothing new";
  });
}

TEST_F(LogQueueTest, TellsByItselfSoonAfterALineHasCome) {
  sim.run([&] {
    LogQueue queue(sim);
    const auto running = sim.spawn("lines", [&] { queue.run(tell()); });
    sim.wait_for(5s);
    EXPECT_EQ(messages, 0);
    for (int i = 0; i < 30; ++i) {
      queue.add(OutputStream::standard_error, "a line\n");
      sim.wait_for(10ms);
    }
    sim.wait_for(100ms);
    EXPECT_EQ(told.size(), 30u);
    EXPECT_LE(messages, 6);
    queue.close();
    running->join();
  });
}

TEST_F(LogQueueTest, DropsAndCountsWhatIsBeyondTheLimit) {
  constexpr std::size_t lines_a_step = 1'000;
  const std::string line = std::string(99, 'x') + "\n";
  sim.run([&] {
    LogQueue queue(sim);
    const auto running = sim.spawn("lines", [&] { queue.run(tell()); });
    for (int step = 0; step < 100; ++step) {
      for (std::size_t i = 0; i < lines_a_step; ++i) queue.add(OutputStream::standard_output, line);
      sim.wait_for(100ms);
    }
    EXPECT_LE(bytes, LogQueue::bytes_max + 10 * LogQueue::bytes_per_second_max);
    EXPECT_GE(bytes, 5 * LogQueue::bytes_per_second_max) << "the overhead of lines this short is a third";
    sim.wait_for(2s);
    EXPECT_EQ(told.size() + dropped, 100 * lines_a_step) << "all of them are told or counted";
    queue.close();
    running->join();
  });
}

// The first lines of who has no driver yet say why.
TEST_F(LogQueueTest, KeepsTheFirstLinesWhileNobodyTakesThem) {
  sim.run([&] {
    LogQueue queue(sim);
    for (int i = 0; i < 1'000; ++i) {
      queue.add(OutputStream::standard_error, std::to_string(i) + std::string(1'000, ' ') + "\n");
      sim.wait_for(1s);
    }
    queue.send(tell());
    EXPECT_LE(bytes, LogQueue::bytes_max);
    EXPECT_TRUE(told.front().starts_with("0 "));
    EXPECT_EQ(told.size() + dropped, 1'000u);
  });
}

TEST_F(LogQueueTest, HasToldAllWhenSendReturnsThoughAnotherThreadIsSending) {
  sim.run([&] {
    LogQueue queue(sim);
    queue.add(OutputStream::standard_error, "first\n");
    const auto slow = sim.spawn("slow", [&] {
      queue.send([&](std::string_view message) {
        sim.wait_for(1s);
        tell()(message);
      });
    });
    sim.wait_for(100ms);
    queue.add(OutputStream::standard_error, "second\n");
    queue.send(tell());
    EXPECT_EQ(told, (std::vector<std::string>{"first", "second"}));
    slow->join();
  });
}

// What an executor has printed is shown behind its number and host, and none of it within another line.
TEST_F(LogQueueTest, LinesOfAnExecutorAreOnTheDriversStandardError) {
  ::testing::internal::CaptureStderr();
  sim.run([&] {
    Members::Options options;
    options.token = "token";
    options.welcome.heartbeat = 200ms;
    options.timeout = 1s;
    options.on_message = [](ExecutorId, std::string_view) {};
    options.on_lost = [](ExecutorId) {};
    Members members(sim, sim.transport().listen(Address::tcp("127.0.0.1", 0)), std::move(options));
    LogQueue queue(sim);
    queue.add(OutputStream::standard_error, "before there is a driver\n");
    Executor executor(sim, sim.transport(),
                      {.driver = members.address().text, .token = "token", .listen = "127.0.0.1:0"});
    executor.send_lines_of(queue);
    const auto running = sim.spawn("executor", [&] { executor.run(); });
    ASSERT_TRUE(members.wait_for(1, 10s));
    queue.add(OutputStream::standard_output, "printed by a task\n");
    sim.wait_for(1s);
    members.stop();
    running->join();
  });
  const std::string shown = ::testing::internal::GetCapturedStderr();
  EXPECT_TRUE(
      shown.starts_with("[executor 1 at 127.0.0.1] before there is a driver\n"
                        "[executor 1 at 127.0.0.1] printed by a task\n"))
      << shown;
}

}  // namespace
}  // namespace sluice::detail
