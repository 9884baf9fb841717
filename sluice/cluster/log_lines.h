// What executors print, on its way to the driver's standard error.
//
// Executors that this process has started print into pipes (spawn_self), and wait while these are full. Those that were
// started elsewhere print where they always did, and send a copy over the driver's connection. That one must not be
// filled by what somebody prints in a loop: there is a limit, and what is beyond it is dropped, counted and told.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/cluster/messages.h"
#include "sluice/runtime/output.h"
#include "sluice/runtime/runtime.h"

namespace sluice::detail {

/// Lines of an executor that wait to be sent to the driver. Threads: safe from all threads.
class LogQueue {
 public:
  /// So much may be sent on the mean, and so much at once after a quiet time; this is also all that is kept.
  static constexpr std::size_t bytes_per_second_max = 64 << 10;
  static constexpr std::size_t bytes_max = 256 << 10;

  explicit LogQueue(Runtime& runtime);

  /// Never waits, so it may be called by whoever prints (copy_output).
  void add(OutputStream stream, std::string_view piece);
  /// Tells what is there. When it returns, all lines that had ended when it was called have been told, by this call or
  /// another one. `tell` must not throw.
  void send(const std::function<void(std::string_view message)>& tell);
  /// Calls `send` whenever there is something, but a few times a second only, until `close`.
  void run(const std::function<void(std::string_view message)>& tell);
  /// Ends `run`, for good.
  void close();

 private:
  void refill(Time now);
  std::optional<LogLines> take(Time now);

  Runtime& runtime_;
  std::mutex mutex_;
  std::unique_ptr<Condition> changed_;
  bool closed_ = false;
  bool sending_ = false;
  Lines streams_[2];
  std::vector<std::string> lines_;
  std::size_t bytes_ = 0;
  /// What may be added by now, and when that was reckoned.
  std::size_t allowed_ = bytes_max;
  Time reckoned_;
  std::uint64_t dropped_ = 0;
  /// When the driver may be told of them.
  Time dropped_told_next_{};
};

/// Lines of executors for this process's standard error, which may be slow: who reads from an executor must not wait
/// for it. Threads: safe from all threads; one runs `run`.
class LogPrinter {
 public:
  /// All that is kept.
  static constexpr std::size_t bytes_max = 1 << 20;

  explicit LogPrinter(Runtime& runtime);
  /// Never waits. `name`: of who has printed them.
  void add(const std::string& name, const LogLines& lines);
  /// Prints until `close`, and then what is left.
  void run();
  void close();

 private:
  std::mutex mutex_;
  std::unique_ptr<Condition> changed_;
  bool closed_ = false;
  std::string text_;
  std::uint64_t dropped_ = 0;
};

/// A line as the driver shows it, with its end: "[executor 3] the line".
std::string shown_line(const std::string& name, std::string_view line);
/// Prints it at once as a whole, so that no other line gets in between.
void print_line(const std::string& name, std::string_view line);

}  // namespace sluice::detail
