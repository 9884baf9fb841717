// Streams that take text from a socket.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "benchmarks/data.h"
#include "benchmarks/sample.h"
#include "benchmarks/stream.h"
#include "sluice/sluice.h"

namespace bench {

/// Sends the lines again and again to whoever connects, until it is gone.
class Feeder {
 public:
  explicit Feeder(const TextData& text)
      : text_(text),
        listener_(sluice::system_runtime().transport().listen(sluice::Address::tcp("127.0.0.1", 0))),
        thread_([this] { feed(); }) {}
  ~Feeder() {
    ended_ = true;
    listener_->close();
    thread_.join();
  }
  Feeder(const Feeder&) = delete;
  Feeder& operator=(const Feeder&) = delete;
  std::uint16_t port() const {
    const std::string address = listener_->address().text;
    return static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)));
  }

 private:
  void feed() {
    const auto connection = listener_->accept(sluice::Time::max());
    try {
      for (std::size_t batch = 0; connection != nullptr && !ended_; ++batch) {
        for (const std::string_view slice : text_.slices[batch % text_.slices.size()]) {
          connection->write(slice, sluice::Time::max());
        }
      }
    } catch (const sluice::Error&) {
      ended_ = true;  // as the stream has
    }
  }
  const TextData& text_;
  std::unique_ptr<sluice::Listener> listener_;
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

/// MB/s that a stream takes from a socket, on 2 cores; `counted(lines)` is the workload.
template <class Counted>
double socket_rate(const TextData& text, const std::string& master, bool with_log, std::size_t batches,
                   const Counted& counted) {
  const Feeder feeder(text);
  const Scratch scratch;
  Stream stream(master, 2,
                {.batch = std::chrono::milliseconds(500), .checkpoint = scratch.path(), .without_wal = !with_log});
  std::int64_t sum = 0;
  collect(counted(stream.ssc.socket_text_stream("127.0.0.1", feeder.port()).name("lines")), sum);
  constexpr std::size_t warm = 4;
  std::size_t ended = 0;
  std::uint64_t bytes = 0;
  auto begin = std::chrono::steady_clock::now();
  double seconds = 0;
  stream.run([&](const sluice::BatchInfo& batch) {
    if (++ended > warm) {
      for (const auto& input : batch.inputs) bytes += input.bytes;
    } else {
      begin = std::chrono::steady_clock::now();
    }
    seconds = seconds_since(begin);
    return ended < warm + batches;
  });
  return static_cast<double>(bytes) / seconds / 1e6;
}

}  // namespace bench
