// What the running job shows: takes the rows of a batch, hears when the batch is done, draws.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "examples/access_log/job.h"
#include "examples/access_log/terminal.h"

namespace access_log {

/// Threads: `take` and `on_batch_completed` are called on the stream's thread, the others while it does not run;
/// `lines` and
/// `output_lost` from any.
class Dashboard : public sluice::StreamingListener {
 public:
  Dashboard(const sluice::Clock& clock, int file_descriptor, bool json, sluice::Duration batch, sluice::Duration window,
            std::string source);

  /// The rows of batch `time`.
  void take(const sluice::Records<Row>& rows, sluice::Time time);
  void on_batch_completed(const sluice::BatchInfo& batch) override;

  /// On a terminal: an empty screen, until the first batch is done.
  void begin();
  /// The totals, for people. `too_long`: lines that the engine left out.
  void finish(std::uint64_t too_long);
  void say(std::string_view text);
  /// Lines of all batches that are done, the malformed ones too.
  std::uint64_t lines() const { return lines_; }
  /// Nobody reads any more what is written (a closed pipe).
  bool output_lost() const { return output_lost_; }

 private:
  void draw();

  const sluice::Clock& clock_;
  const int file_descriptor_;
  const bool json_;
  const sluice::Time begin_;
  Terminal terminal_;
  Summary summary_;
  Report batch_;
  Report window_;
  Report totals_;
  std::atomic<std::uint64_t> lines_{0};
  std::atomic<bool> output_lost_{false};
};

}  // namespace access_log
