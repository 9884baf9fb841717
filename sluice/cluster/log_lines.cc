#include "sluice/cluster/log_lines.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>

namespace sluice::detail {
namespace {

/// Between two messages, where nobody asks for one.
constexpr Duration send_pause = std::chrono::milliseconds(100);
constexpr Duration dropped_pause = std::chrono::seconds(1);
/// What a line costs besides its bytes, in memory and in a message.
constexpr std::size_t line_overhead = 40;

std::string dropped_text(std::uint64_t lines) {
  return std::to_string(lines) + " lines are not shown here: more is printed than is sent to the driver";
}

}  // namespace

// ---- Executors

LogQueue::LogQueue(Runtime& runtime)
    : runtime_(runtime), changed_(runtime.condition()), reckoned_(runtime.clock().now()) {}

void LogQueue::refill(Time now) {
  const auto elapsed = std::chrono::duration_cast<std::chrono::milliseconds>(std::max(now - reckoned_, Duration{}));
  const auto gained = static_cast<std::uint64_t>(elapsed.count()) * bytes_per_second_max / 1000;
  if (gained == 0) return;  // reckoned from the same instant the next time, so that no part of it is lost
  allowed_ = static_cast<std::size_t>(std::min<std::uint64_t>(bytes_max, allowed_ + gained));
  reckoned_ = now;
}

void LogQueue::add(OutputStream stream, std::string_view piece) {
  const Time now = runtime_.clock().now();
  const std::lock_guard lock(mutex_);
  const bool had_something = !lines_.empty() || dropped_ > 0;
  streams_[stream == OutputStream::standard_error].add(piece, [&](std::string_view line) {
    const std::size_t cost = line.size() + line_overhead;
    refill(now);
    // While there is no driver nothing is taken from here, and what came first says why.
    if (cost > allowed_ || bytes_ + cost > bytes_max) {
      ++dropped_;
      return;
    }
    allowed_ -= cost;
    bytes_ += cost;
    lines_.emplace_back(line);
  });
  if (!had_something && (!lines_.empty() || dropped_ > 0)) changed_->notify_all();
}

std::optional<LogLines> LogQueue::take(Time now) {
  LogLines message;
  message.lines = std::exchange(lines_, {});
  bytes_ = 0;
  if (dropped_ > 0 && now >= dropped_told_next_) {
    message.dropped = std::exchange(dropped_, 0);
    dropped_told_next_ = now + dropped_pause;
  }
  if (message.lines.empty() && message.dropped == 0) return std::nullopt;
  return message;
}

void LogQueue::send(const std::function<void(std::string_view message)>& tell) {
  std::unique_lock lock(mutex_);
  while (sending_) changed_->wait(lock);
  const std::optional<LogLines> message = take(runtime_.clock().now());
  if (!message.has_value()) return;
  // The mutex is not held while the driver is waited for: who prints would wait for it, too.
  sending_ = true;
  lock.unlock();
  tell(encode_message(*message));
  lock.lock();
  sending_ = false;
  changed_->notify_all();
}

void LogQueue::run(const std::function<void(std::string_view message)>& tell) {
  std::unique_lock lock(mutex_);
  while (!closed_) {
    if (lines_.empty() && dropped_ == 0) {
      changed_->wait(lock);
      continue;
    }
    lock.unlock();
    send(tell);
    lock.lock();
    const Time next = runtime_.clock().now() + send_pause;
    while (!closed_ && runtime_.clock().now() < next) changed_->wait_until(lock, next);
  }
}

void LogQueue::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_->notify_all();
}

// ---- The driver

LogPrinter::LogPrinter(Runtime& runtime) : changed_(runtime.condition()) {}

void LogPrinter::add(const std::string& name, const LogLines& lines) {
  std::string text;
  for (const std::string& line : lines.lines) text += shown_line(name, line);
  if (lines.dropped > 0) text += shown_line(name, dropped_text(lines.dropped));
  const std::lock_guard lock(mutex_);
  if (text_.size() + text.size() > bytes_max) {
    dropped_ += lines.lines.size() + lines.dropped;
  } else {
    text_ += text;
  }
  changed_->notify_all();
}

void LogPrinter::run() {
  std::unique_lock lock(mutex_);
  while (!closed_ || !text_.empty()) {
    if (text_.empty()) {
      changed_->wait(lock);
      continue;
    }
    std::string text = std::exchange(text_, {});
    if (dropped_ > 0) text += "sluice: executors: " + dropped_text(std::exchange(dropped_, 0)) + "\n";
    lock.unlock();
    std::fwrite(text.data(), 1, text.size(), stderr);
    lock.lock();
  }
}

void LogPrinter::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_->notify_all();
}

std::string shown_line(const std::string& name, std::string_view line) {
  std::string text;
  text.reserve(name.size() + line.size() + 4);
  text.append("[").append(name).append("] ").append(line).append("\n");
  return text;
}

void print_line(const std::string& name, std::string_view line) {
  const std::string text = shown_line(name, line);
  std::fwrite(text.data(), 1, text.size(), stderr);
}

}  // namespace sluice::detail
