// The real world: threads of this process, its clock, its files and its sockets.
#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/posix.h"
#include "sluice/runtime/runtime.h"

namespace sluice {
namespace detail {
namespace {

// The wall clock as it was when the process first asked, moved on by the monotonic clock.
class AnchoredClock final : public Clock {
 public:
  Time now() const override { return wall_ + (std::chrono::steady_clock::now() - steady_); }

  // When `time` will be by the monotonic clock. What lies before the anchor is over, and the exact point could
  // overflow.
  std::chrono::steady_clock::time_point steady(Time time) const {
    return time <= wall_ ? steady_ : steady_ + (time - wall_);
  }

 private:
  const Time wall_ = std::chrono::system_clock::now();
  const std::chrono::steady_clock::time_point steady_ = std::chrono::steady_clock::now();
};

const AnchoredClock& anchored_clock() {
  static const AnchoredClock clock;
  return clock;
}

// Anchors the clock at process start, unless other static initialisers already asked for the time.
[[maybe_unused]] const AnchoredClock& anchored_at_start = anchored_clock();

class SystemThread final : public Thread {
 public:
  SystemThread(std::string name, std::function<void()> body)
      : thread_([name = std::move(name), body = std::move(body)]() noexcept {
          // The kernel takes 15 bytes and refuses more. The name is for people; without one the thread works as well.
          pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
          body();
        }) {}

  ~SystemThread() override { SLUICE_ASSERT(!thread_.joinable()); }

  void join() override { thread_.join(); }

 private:
  std::thread thread_;
};

class SystemCondition final : public Condition {
 public:
  void wait(std::unique_lock<std::mutex>& lock) override { condition_.wait(lock); }

  bool wait_until(std::unique_lock<std::mutex>& lock, Time deadline) override {
    return condition_.wait_until(lock, anchored_clock().steady(deadline)) == std::cv_status::no_timeout;
  }

  void notify_one() override { condition_.notify_one(); }
  void notify_all() override { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

// A queue and its workers.
//
// Threads: launch and help from everywhere; the destructor when no one calls them any more, other than the tasks that
// it still runs. `mutex_` guards all members but `workers_`, and is not held while a task runs or is destroyed.
class ThreadPool final : public Executors {
 public:
  explicit ThreadPool(std::size_t cores) : cores_(cores) {
    if (cores == 0) throw Error(Code::bad_argument, {.why = "executors(0): a pool needs a core"});
    workers_.reserve(cores);
    for (std::size_t i = 0; i < cores; ++i) {
      workers_.push_back(std::make_unique<SystemThread>("sluice-task-" + std::to_string(i), [this] { work(); }));
    }
  }

  ~ThreadPool() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    for (const auto& worker : workers_) worker->join();
  }

  std::size_t cores() const override { return cores_; }

  void launch(std::function<void()> task) override {
    bool wake = false;
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(std::move(task));
      // Waking costs a system call; a worker that is awake looks at the queue before it sleeps. Each sleeper is counted
      // off when it is called, not when it gets up, so that a burst of tasks calls each of them once.
      if (sleeping_ > 0) {
        --sleeping_;
        ++called_;
        wake = true;
      }
    }
    if (wake) wake_.notify_one();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      if (!queue_.empty()) {
        std::function<void()> task = std::move(queue_.front());
        queue_.pop_front();
        lock.unlock();
        task();
        // What it captured goes before the lock is taken: destructors of users' objects may take long.
        task = nullptr;
        lock.lock();
      } else if (ending_) {
        return;
      } else {
        ++sleeping_;
        wake_.wait(lock, [this] { return called_ > 0 || ending_; });
        if (called_ > 0) {
          --called_;
        } else {
          --sleeping_;
        }
      }
    }
  }

  const std::size_t cores_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  // Workers that wait and have not been called; calls that no worker has answered yet.
  std::size_t sleeping_ = 0;
  std::size_t called_ = 0;
  bool ending_ = false;
  std::vector<std::unique_ptr<SystemThread>> workers_;
};

class SystemRuntime final : public Runtime {
 public:
  Clock& clock() override { return clock_; }
  FileSystem& files() override { return *files_; }
  Transport& transport() override { return *transport_; }

  std::unique_ptr<Thread> spawn(std::string name, std::function<void()> body) override {
    return std::make_unique<SystemThread>(std::move(name), std::move(body));
  }

  std::unique_ptr<Condition> condition() override { return std::make_unique<SystemCondition>(); }

  std::unique_ptr<Executors> executors(std::size_t cores) override { return std::make_unique<ThreadPool>(cores); }

  std::uint64_t random_seed() override { return system_random_bits(); }

 private:
  // A copy, which keeps the anchor.
  AnchoredClock clock_ = anchored_clock();
  const std::unique_ptr<FileSystem> files_ = make_local_files();
  const std::unique_ptr<Transport> transport_ = make_posix_transport(clock_);
};

}  // namespace

const Clock& system_clock() { return anchored_clock(); }

}  // namespace detail

Runtime& system_runtime() {
  // Never destroyed: threads may outlive static destructors.
  static auto* const runtime = new detail::SystemRuntime;
  return *runtime;
}

}  // namespace sluice
