// Any bytes, read as messages (cluster/channel.h): an error that says so, or messages that are what was read.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "sluice/cluster/channel.h"
#include "sluice/runtime/errors.h"

namespace {

/// Gives `content` in pieces of 1 to 7 bytes; keeps what is written.
class MemoryConnection : public sluice::Connection {
 public:
  explicit MemoryConnection(std::string_view content) : content_(content) {}
  std::optional<std::size_t> read(std::span<char> into, sluice::Time) override {
    const std::size_t count = std::min({into.size(), 1 + at_ % 7, content_.size() - at_});
    if (count != 0) std::memcpy(into.data(), content_.data() + at_, count);
    at_ += count;
    return count;
  }
  void write(std::string_view bytes, sluice::Time) override { written.append(bytes.data(), bytes.size()); }
  void close() override {}
  std::string peer() const override { return "memory"; }
  std::string written;

 private:
  std::string_view content_;
  std::size_t at_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  MemoryConnection connection(bytes);
  try {
    while (const auto payload = sluice::detail::read_message(connection, sluice::Time::max())) {
      sluice::detail::write_message(connection, *payload, sluice::Time::max());
    }
    if (connection.written.size() != size) std::abort();
  } catch (const sluice::Error& error) {
    const auto code = error.code();
    if (code != sluice::Code::corrupt_data && code != sluice::Code::truncated_data &&
        code != sluice::Code::over_limit) {
      std::abort();
    }
  }
  // What was read whole is what lies there.
  if (connection.written.size() > size) std::abort();
  if (!connection.written.empty() &&
      std::memcmp(connection.written.data(), bytes.data(), connection.written.size()) != 0)
    std::abort();
  return 0;
}
