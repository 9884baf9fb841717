#include "sluice/cluster/channel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/runtime/errors.h"
#include "sluice/testkit/simulation.h"

namespace sluice::detail {
namespace {

/// What was written is what is read, in pieces of at most `piece` bytes.
class MemoryConnection : public Connection {
 public:
  explicit MemoryConnection(std::string content = "", std::size_t piece = 7)
      : bytes(std::move(content)), piece_(piece) {}
  std::optional<std::size_t> read(std::span<char> into, Time) override {
    const std::size_t count = std::min({into.size(), piece_, bytes.size() - at_});
    if (count != 0) std::memcpy(into.data(), bytes.data() + at_, count);
    at_ += count;
    return count;
  }
  void write(std::string_view more, Time) override { bytes.append(more.data(), more.size()); }
  void close() override {}
  std::string peer() const override { return "memory"; }
  std::string bytes;

 private:
  std::size_t piece_;
  std::size_t at_ = 0;
};

Code code_of(const std::string& bytes) {
  try {
    MemoryConnection connection(bytes);
    while (read_message(connection, Time::max()).has_value()) {
    }
  } catch (const Error& error) {
    return error.code();
  }
  return Code{};
}

TEST(Frame, ComesBackAsItWasWritten) {
  MemoryConnection connection;
  const std::vector<std::string> payloads{"", "a", std::string(100'000, 'x'), std::string("\0\1\2", 3)};
  for (const std::string& payload : payloads) write_message(connection, payload, Time::max());
  for (const std::string& payload : payloads) EXPECT_EQ(read_message(connection, Time::max()), payload);
  EXPECT_EQ(read_message(connection, Time::max()), std::nullopt);
}

TEST(Frame, CutAnywhereIsTruncated) {
  MemoryConnection connection;
  write_message(connection, "some payload", Time::max());
  EXPECT_EQ(code_of(""), Code{});
  for (std::size_t size = 1; size < connection.bytes.size(); ++size) {
    EXPECT_EQ(code_of(connection.bytes.substr(0, size)), Code::truncated_data) << size;
  }
}

TEST(Frame, WithAnyBitFlippedIsAnError) {
  MemoryConnection connection;
  write_message(connection, "some payload", Time::max());
  for (std::size_t bit = 0; bit < connection.bytes.size() * 8; ++bit) {
    std::string damaged = connection.bytes;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_NE(code_of(damaged), Code{}) << bit;
  }
}

TEST(Frame, OverTheLimitIsRefused) {
  EXPECT_EQ(code_of(std::string("\1\0\x40\0", 4) + std::string(100, 'x')), Code::over_limit);
  MemoryConnection connection("", 1 << 20);
  write_message(connection, std::string(frame_bytes_max + 1, 'x'), Time::max());
  MemoryConnection again(connection.bytes, 1 << 20);
  EXPECT_EQ(read_message(again, Time::max(), frame_bytes_max + 1)->size(), frame_bytes_max + 1);
  MemoryConnection other(connection.bytes, 1 << 20);
  EXPECT_THROW(read_message(other, Time::max(), frame_bytes_max), Error);
}

TEST(Frame, LargeMessagesTravelInSeveral) {
  MemoryConnection connection("", 1 << 20);
  const std::vector<std::string> messages{std::string(frame_bytes_max, 'a'), std::string(2 * frame_bytes_max + 5, 'b'),
                                          "c"};
  for (const std::string& message : messages) write_message(connection, message, Time::max());
  for (const std::string& message : messages) EXPECT_EQ(read_message(connection, Time::max()), message);
}

// A message of who is known by its place in the stream alone: twice, left out, or before its turn, it is refused.
TEST(Channels, RefuseAFrameThatComesTwiceOrOutOfItsTurn) {
  testing::Simulation sim{1, {}};
  sim.run([&] {
    auto written = std::make_unique<MemoryConnection>();
    const std::string& bytes = written->bytes;
    std::vector<std::string> frames;
    Channel sender(sim, std::move(written));
    for (const char* message : {"first", "second", "third"}) {
      const std::size_t before = bytes.size();
      sender.send(message);
      frames.push_back(bytes.substr(before));
    }
    const auto received = [&](const std::vector<int>& order) {
      std::string stream;
      for (const int frame : order) stream += frames[static_cast<std::size_t>(frame)];
      Channel receiver(sim, std::make_unique<MemoryConnection>(stream));
      std::vector<std::string> got;
      try {
        while (const auto message = receiver.receive()) got.push_back(*message);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), Code::corrupt_data);
        got.emplace_back("refused");
      }
      return got;
    };
    using Got = std::vector<std::string>;
    EXPECT_EQ(received({0, 1, 2}), (Got{"first", "second", "third"}));
    EXPECT_EQ(received({0, 0}), (Got{"first", "refused"}));
    EXPECT_EQ(received({0, 1, 1, 2}), (Got{"first", "second", "refused"}));
    EXPECT_EQ(received({0, 2}), (Got{"first", "refused"}));
    EXPECT_EQ(received({1}), (Got{"refused"})) << "what was said over another connection";
  });
}

}  // namespace
}  // namespace sluice::detail
