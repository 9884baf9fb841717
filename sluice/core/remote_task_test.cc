#include "sluice/core/remote_task.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

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
    while (read_frame(connection, Time::max()).has_value()) {
    }
  } catch (const Error& error) {
    return error.code();
  }
  return Code{};
}

TEST(Frame, ComesBackAsItWasWritten) {
  MemoryConnection connection;
  const std::vector<std::string> payloads{"", "a", std::string(100'000, 'x'), std::string("\0\1\2", 3)};
  for (const std::string& payload : payloads) write_frame(connection, payload, Time::max());
  for (const std::string& payload : payloads) EXPECT_EQ(read_frame(connection, Time::max()), payload);
  EXPECT_EQ(read_frame(connection, Time::max()), std::nullopt);
}

TEST(Frame, CutAnywhereIsTruncated) {
  MemoryConnection connection;
  write_frame(connection, "some payload", Time::max());
  EXPECT_EQ(code_of(""), Code{});
  for (std::size_t size = 1; size < connection.bytes.size(); ++size) {
    EXPECT_EQ(code_of(connection.bytes.substr(0, size)), Code::truncated_data) << size;
  }
}

TEST(Frame, WithAnyBitFlippedIsAnError) {
  MemoryConnection connection;
  write_frame(connection, "some payload", Time::max());
  for (std::size_t bit = 0; bit < connection.bytes.size() * 8; ++bit) {
    std::string damaged = connection.bytes;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_NE(code_of(damaged), Code{}) << bit;
  }
}

TEST(Frame, OverTheLimitIsRefusedByBothSides) {
  MemoryConnection connection;
  const std::string large(frame_bytes_max + 1, 'x');
  EXPECT_THROW(write_frame(connection, large, Time::max()), Error);
  EXPECT_TRUE(connection.bytes.empty());
  EXPECT_EQ(code_of(std::string("\1\0\0\4", 4) + std::string(100, 'x')), Code::over_limit);
}

}  // namespace
}  // namespace sluice::detail
