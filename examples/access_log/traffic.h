// A busy web server's log, written while one looks: lines come at a rate that rises and falls, and now and then the
// log is rotated as logrotate does it (moved away, and a new one begun).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "sluice/runtime/runtime.h"

namespace access_log {

struct TrafficOptions {
  /// Mean lines a second; the rate varies by two thirds.
  std::uint64_t lines_per_second = 3000;
  /// The log is moved to PATH.1 after this time.
  sluice::Duration rotation = std::chrono::seconds(15);
};

class Traffic {
 public:
  /// Begins the log at `path` and writes on a thread of its own.
  Traffic(sluice::Runtime& runtime, std::string path, TrafficOptions options = {});
  ~Traffic();
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;

  /// Returns when the last line is whole in the file. Twice is no error.
  void stop();
  /// Lines that are in the log.
  std::uint64_t lines() const { return lines_.load(); }
  /// Why it stopped by itself (a full disk); empty when it did not. After stop().
  const std::string& failure() const { return failure_; }

 private:
  void write_lines();

  sluice::Runtime& runtime_;
  const std::string path_;
  const TrafficOptions options_;
  std::unique_ptr<sluice::File> log_;
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint64_t> lines_{0};
  std::string failure_;
  std::unique_ptr<sluice::Thread> thread_;
};

}  // namespace access_log
