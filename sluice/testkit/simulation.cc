#include "sluice/testkit/simulation.h"

#include <utility>
#include <vector>

#include "sluice/runtime/errors.h"
#include "sluice/testkit/sim_filesystem.h"
#include "sluice/testkit/sim_scheduler.h"
#include "sluice/testkit/sim_transport.h"

namespace sluice::testing {
namespace detail {
namespace {

class SimThread final : public Thread {
 public:
  SimThread(Scheduler& scheduler, std::shared_ptr<SimFiber> fiber)
      : scheduler_(scheduler), fiber_(std::move(fiber)), life_(scheduler.life()) {}

  ~SimThread() override { SLUICE_ASSERT(joined_ || life_ != scheduler_.life()); }

  void join() override {
    SLUICE_ASSERT(!joined_);
    scheduler_.join(*fiber_);
    joined_ = true;
  }

 private:
  Scheduler& scheduler_;
  const std::shared_ptr<SimFiber> fiber_;
  const std::uint64_t life_;
  bool joined_ = false;
};

class SimCondition final : public Condition {
 public:
  SimCondition(Scheduler& scheduler, std::uint64_t number)
      : scheduler_(scheduler), waiting_("condition " + std::to_string(number)) {}

  void wait(std::unique_lock<std::mutex>& lock) override { wait_until(lock, Time::max()); }

  bool wait_until(std::unique_lock<std::mutex>& lock, Time deadline) override {
    // No other fiber runs between the two, so no notification is lost.
    lock.unlock();
    const bool notified = scheduler_.park(waiting_, deadline, true);
    // A fiber that stops with the mutex locked would stop all. Found here it can at least be told.
    const bool free = lock.try_lock();
    SLUICE_ASSERT(free && "no fiber holds a mutex in a call that may wait");
    return notified;
  }

  void notify_one() override { scheduler_.wake_one(waiting_); }
  void notify_all() override { scheduler_.wake_all(waiting_); }

 private:
  Scheduler& scheduler_;
  WaitList waiting_;
};

class SimExecutors final : public Executors {
 public:
  SimExecutors(Scheduler& scheduler, std::uint64_t number, std::size_t cores)
      : scheduler_(scheduler), life_(scheduler.life()), work_("a task of executors " + std::to_string(number)) {
    if (cores == 0) throw Error(Code::bad_argument, {.why = "executors(0): a pool needs a core"});
    for (std::size_t core = 0; core < cores; ++core) {
      workers_.push_back(
          scheduler.start("worker " + std::to_string(number) + "-" + std::to_string(core), [this] { work(); }));
    }
  }

  ~SimExecutors() override {
    if (life_ != scheduler_.life()) return;
    ending_ = true;
    scheduler_.wake_all(work_);
    for (const auto& worker : workers_) {
      if (scheduler_.in_fiber()) {
        scheduler_.join(*worker);
      } else {
        scheduler_.abandon(*worker);
      }
    }
  }

  std::size_t cores() const override { return workers_.size(); }

  void launch(std::function<void()> task) override {
    tasks_.push_back(std::move(task));
    scheduler_.wake_one(work_);
  }

 private:
  // Any of them: no order is promised.
  std::function<void()> take() {
    std::swap(tasks_[scheduler_.random().below(tasks_.size())], tasks_.back());
    std::function<void()> task = std::move(tasks_.back());
    tasks_.pop_back();
    return task;
  }

  void work() {
    while (true) {
      if (!tasks_.empty()) {
        take()();
        scheduler_.pause();
      } else if (ending_) {
        return;
      } else {
        scheduler_.park(work_, Time::max());
      }
    }
  }

  Scheduler& scheduler_;
  const std::uint64_t life_;
  WaitList work_;
  std::vector<std::function<void()>> tasks_;
  bool ending_ = false;
  std::vector<std::shared_ptr<SimFiber>> workers_;
};

}  // namespace
}  // namespace detail

struct Simulation::State {
  State(std::uint64_t seed_, const SimulationOptions& options)
      : seed(seed_), random(seed_ ^ 0x5eed), scheduler(seed_, options), files(scheduler), transport(scheduler) {}

  const std::uint64_t seed;
  // Apart from the scheduler's, so that a test that draws one number more still sees the same run up to there.
  Random random;
  detail::Scheduler scheduler;
  detail::SimFileSystem files;
  detail::SimTransport transport;
  std::uint64_t condition_count = 0;
  std::uint64_t executors_count = 0;
};

Simulation::Simulation(std::uint64_t seed, SimulationOptions options)
    : state_(std::make_unique<State>(seed, options)) {}

Simulation::~Simulation() = default;

void Simulation::run(std::function<void()> body) { state_->scheduler.run(std::move(body)); }

void Simulation::crash_after(std::uint64_t steps) { state_->scheduler.crash_after(steps); }

bool Simulation::run_process(const std::function<void()>& body, std::optional<std::uint64_t> killed_after) {
  return state_->scheduler.run_process(body, killed_after,
                                       [this](std::uint64_t process) { state_->transport.process_died(process); });
}

std::uint64_t Simulation::steps() const { return state_->scheduler.steps(); }

void Simulation::crash_disk() { state_->files.crash(); }

void Simulation::pause() { state_->scheduler.pause(); }

std::uint64_t Simulation::trace_hash() const { return state_->scheduler.trace_hash(); }

std::uint64_t Simulation::seed() const { return state_->seed; }

Random& Simulation::random() { return state_->random; }

Clock& Simulation::clock() { return state_->scheduler; }

FileSystem& Simulation::files() { return state_->files; }

Transport& Simulation::transport() { return state_->transport; }

std::unique_ptr<Thread> Simulation::spawn(std::string name, std::function<void()> body) {
  detail::Scheduler& scheduler = state_->scheduler;
  return std::make_unique<detail::SimThread>(scheduler, scheduler.start(std::move(name), std::move(body)));
}

std::unique_ptr<Condition> Simulation::condition() {
  return std::make_unique<detail::SimCondition>(state_->scheduler, ++state_->condition_count);
}

std::unique_ptr<Executors> Simulation::executors(std::size_t cores) {
  return std::make_unique<detail::SimExecutors>(state_->scheduler, ++state_->executors_count, cores);
}

std::uint64_t Simulation::process() const { return state_->scheduler.process(); }

std::uint64_t Simulation::random_seed() { return state_->scheduler.random().next(); }

}  // namespace sluice::testing
