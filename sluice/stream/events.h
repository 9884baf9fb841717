// What a stream tells about itself: batches, outputs, receivers (LS rows).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sluice/runtime/clock.h"

namespace sluice {

/// Input of one stream in one batch.
struct InputInfo {
  std::size_t stream = 0;
  std::string name;
  /// Records, where they are counted before they are read; lines of files and text blocks are not.
  std::uint64_t records = 0;
  std::uint64_t bytes = 0;
  /// Blocks or file ranges.
  std::uint64_t blocks = 0;
  /// Blocks that an earlier run has received and that were gone with it: they were in memory alone (no write-ahead
  /// log).
  std::uint64_t blocks_lost = 0;
  /// For people: file names, offsets.
  std::string description;
};

/// An output operation in one batch (LS-03).
struct OutputInfo {
  std::size_t id = 0;
  std::string name;
  /// Empty when it succeeded.
  std::string failure;
};

/// One batch; what is not yet known is empty (LS-01).
struct BatchInfo {
  Time batch_time{};
  std::vector<InputInfo> inputs;
  /// When the batch was due; the last batch of a graceful stop is due with the stop.
  Time submitted{};
  std::optional<Time> started;
  std::optional<Time> ended;
  std::vector<OutputInfo> outputs;

  /// Start minus submission.
  std::optional<Duration> scheduling_delay() const {
    return started ? std::optional<Duration>(*started - submitted) : std::nullopt;
  }
  std::optional<Duration> processing_delay() const {
    return started && ended ? std::optional<Duration>(*ended - *started) : std::nullopt;
  }
  std::optional<Duration> total_delay() const {
    return ended ? std::optional<Duration>(*ended - submitted) : std::nullopt;
  }
  bool failed() const {
    for (const OutputInfo& output : outputs) {
      if (!output.failure.empty()) return true;
    }
    return false;
  }
};

/// A receiver (LS-04).
struct ReceiverInfo {
  std::size_t stream = 0;
  std::string name;
  bool active = false;
  std::string last_error;
  /// Where it runs: "driver", or an executor.
  std::string place;
};

/// Override what you want to hear of. Called on the stream's thread, one event after the other, between batches, and
/// for receivers that stop with the stream after the last one: keep it short. Must not call stop() (SLU-106);
/// request_stop() is allowed. A listener that throws stops the stream.
class StreamingListener {
 public:
  virtual ~StreamingListener() = default;
  virtual void on_streaming_started(Time) {}
  virtual void on_batch_submitted(const BatchInfo&) {}
  virtual void on_batch_started(const BatchInfo&) {}
  virtual void on_batch_completed(const BatchInfo&) {}
  virtual void on_receiver_started(const ReceiverInfo&) {}
  virtual void on_receiver_error(const ReceiverInfo&) {}
  virtual void on_receiver_stopped(const ReceiverInfo&) {}
};

}  // namespace sluice
