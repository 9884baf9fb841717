// What one run of a workload gives, by the loop or by the engine.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "sluice/runtime/process.h"

namespace bench {

/// How long to run.
struct Plan {
  std::size_t threads = 2;
  /// Batches before anything is measured: tables grow, windows fill.
  std::size_t warm_batches = 8;
  std::size_t batches = 24;
  std::size_t all_batches() const { return warm_batches + batches; }
};

struct Sample {
  /// From the end of one batch to the end of the next, without the warm ones.
  std::vector<double> batch_seconds;
  double cpu_seconds = 0;
  /// A number both sides must agree in: what the workload counts, over all batches.
  std::int64_t result = 0;
};

/// A measured figure beside the workloads.
struct Figure {
  std::string name;
  double value;
  std::string unit;
};

/// The value that the share `part` of the values is not above.
inline double quantile(std::vector<double> values, double part) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<std::size_t>(part * static_cast<double>(values.size())))];
}

template <class T>
T median(std::vector<T> values) {
  if (values.empty()) return T{};
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Turns the ends of batches into a Sample.
class BatchTimer {
 public:
  explicit BatchTimer(const Plan& plan) : plan_(plan) {}
  void batch_ended() {
    const auto now = std::chrono::steady_clock::now();
    if (++ended_ > plan_.warm_batches) {
      sample_.batch_seconds.push_back(std::chrono::duration<double>(now - last_).count());
    }
    last_ = now;
    if (ended_ == plan_.warm_batches) cpu_before_ = cpu_seconds();
    if (ended_ == plan_.all_batches()) sample_.cpu_seconds = cpu_seconds() - cpu_before_;
  }
  bool done() const { return ended_ >= plan_.all_batches(); }
  std::size_t ended() const { return ended_; }
  Sample take(std::int64_t result) {
    sample_.result = result;
    return std::move(sample_);
  }
  static double cpu_seconds() { return std::chrono::duration<double>(sluice::process_cpu_time()).count(); }

 private:
  const Plan plan_;
  std::size_t ended_ = 0;
  std::chrono::steady_clock::time_point last_;
  double cpu_before_ = 0;
  Sample sample_;
};

}  // namespace bench
