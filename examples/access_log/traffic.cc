#include "examples/access_log/traffic.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>

#include "examples/access_log/log_generator.h"
#include "sluice/runtime/errors.h"

namespace access_log {
namespace {

using namespace std::chrono_literals;

// A slow wave of 24 s, a quick one on top, and a burst of two seconds in each half minute.
double lines_per_second(double mean, double seconds) {
  constexpr double turn = 2 * std::numbers::pi;
  const double wave = 1 + 0.4 * std::sin(turn * seconds / 24) + 0.15 * std::sin(turn * seconds / 3.1);
  const double burst = std::fmod(seconds, 30) > 21 && std::fmod(seconds, 30) < 23 ? 1.7 : 1.0;
  return mean * wave * burst;
}

}  // namespace

Traffic::Traffic(sluice::Runtime& runtime, std::string path, TrafficOptions options)
    : runtime_(runtime), path_(std::move(path)), options_(options), log_(runtime.files().create(path_)) {
  thread_ = runtime_.spawn("traffic", [this] {
    try {
      write_lines();
    } catch (...) {
      failure_ = sluice::current_exception_text();  // read after the join
    }
  });
}

Traffic::~Traffic() { stop(); }

void Traffic::stop() {
  stopping_ = true;
  if (thread_ != nullptr) thread_->join();
  thread_ = nullptr;
}

void Traffic::write_lines() {
  LogGenerator generator({.seed = runtime_.random_seed()});
  const sluice::Time begin = runtime_.clock().now();
  sluice::Time last = begin;
  sluice::Time rotate_at = begin + options_.rotation;
  double owed = 0;
  std::string text;
  while (!stopping_) {
    runtime_.wait_for(20ms);
    const sluice::Time now = runtime_.clock().now();
    const auto seconds = [](sluice::Duration duration) { return std::chrono::duration<double>(duration).count(); };
    // After a pause of the machine, a second's worth is made up for at most.
    owed += lines_per_second(static_cast<double>(options_.lines_per_second), seconds(now - begin)) *
            std::min(1.0, seconds(now - last));
    last = now;
    generator.set_time(std::chrono::floor<std::chrono::seconds>(now));
    text.clear();
    std::uint64_t made = 0;
    for (; owed >= 1; --owed, ++made) {
      generator.append_line(text);
      text += '\n';
    }
    log_->append(text);
    lines_ += made;
    if (now < rotate_at) continue;
    rotate_at = now + options_.rotation;
    runtime_.files().rename(path_, path_ + ".1");
    log_ = runtime_.files().create(path_);
  }
}

}  // namespace access_log
