// Threads that are begun at any time and waited for together.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "sluice/runtime/runtime.h"

namespace sluice::detail {

/// See the head of this file. Threads: safe from all threads; `join` from none of those it waits for.
class Threads {
 public:
  explicit Threads(Runtime& runtime) : runtime_(runtime) {}
  ~Threads() { join(); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  void spawn(std::string name, std::function<void()> body) {
    auto thread = runtime_.spawn(std::move(name), std::move(body));
    const std::lock_guard lock(mutex_);
    threads_.push_back(std::move(thread));
  }
  /// Waits for all of them, and for those that they begin meanwhile. They must have been told to end.
  void join() {
    for (;;) {
      std::vector<std::unique_ptr<Thread>> threads;
      {
        const std::lock_guard lock(mutex_);
        threads = std::move(threads_);
        threads_.clear();
      }
      if (threads.empty()) return;
      for (const auto& thread : threads) thread->join();
    }
  }

 private:
  Runtime& runtime_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Thread>> threads_;
};

}  // namespace sluice::detail
