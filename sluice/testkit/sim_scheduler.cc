#include "sluice/testkit/sim_scheduler.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>

#include "sluice/runtime/errors.h"

namespace sluice::testing::detail {

Scheduler::Scheduler(std::uint64_t seed, const SimulationOptions& options)
    : options_(options), random_(seed), spurious_wakeups_(random_.chance(0.5)), now_(options.start) {}

Scheduler::~Scheduler() { end_life(); }

std::uint64_t Scheduler::next_process() {
  static std::atomic<std::uint64_t> count{0};
  return ++count;
}

void Scheduler::trace(std::string_view text) {
  trace(text.size());
  // Eight bytes at a time: a simulation writes and sends megabytes.
  for (std::size_t i = 0; i < text.size(); i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + i, std::min<std::size_t>(8, text.size() - i));
    trace_hash_ = (trace_hash_ ^ word) * 0x9e3779b97f4a7c15ULL;
    trace_hash_ ^= trace_hash_ >> 32;
  }
}

void Scheduler::run(std::function<void()> body) {
  SLUICE_ASSERT(!running_);
  running_ = true;
  const std::shared_ptr<SimFiber> first = start("the first fiber", std::move(body));
  std::exception_ptr failure;
  try {
    while (!first->fiber.done()) step();
  } catch (...) {
    failure = std::current_exception();
  }
  running_ = false;
  if (!fibers_.empty()) {
    if (!failure) failure = std::make_exception_ptr(std::logic_error("alive at the end of run:" + who_waits()));
    end_life();
  }
  if (failure) std::rethrow_exception(failure);
}

void Scheduler::step() {
  if (steps_ >= crash_step_) {
    crash_step_ = UINT64_MAX;
    throw SimulatedCrash("killed at step " + std::to_string(steps_));
  }
  if (steps_ >= beside_killed_step_) kill_beside();
  if (options_.step_time_max > Duration::zero()) {
    now_ += Duration(random_.below(static_cast<std::uint64_t>(options_.step_time_max.count()) + 1));
  }
  wake_due();
  if (spurious_wakeups_ && random_.below(32) == 0) wake_someone_spuriously();
  if (ready_.empty()) {
    if (deadlines_.empty()) throw SimulationStuck("nobody can ever run again:" + who_waits());
    now_ = deadlines_.begin()->first.first;
    trace(static_cast<std::uint64_t>(now_.time_since_epoch().count()));
    return;
  }

  ++steps_;
  std::swap(ready_[random_.below(ready_.size())], ready_.back());
  SimFiber& next = *ready_.back();
  ready_.pop_back();
  trace(next.number);
  current_ = &next;
  std::exception_ptr failure;
  try {
    next.fiber.resume();
  } catch (...) {
    failure = std::current_exception();
  }
  current_ = nullptr;
  if (next.fiber.done()) {
    wake_all(next.joiners);
    remove(next);
  }
  if (failure) std::rethrow_exception(failure);
  if (!crash_reason_.empty()) throw SimulatedCrash(std::exchange(crash_reason_, {}));
}

void Scheduler::crash(std::string reason) {
  if (current_ == nullptr) throw SimulatedCrash(reason);
  crash_reason_ = std::move(reason);
  give_way();
  SLUICE_ASSERT(!"a killed fiber ran on");
  std::abort();
}

bool Scheduler::run_process(const std::function<void()>& body, std::optional<std::uint64_t> killed_after,
                            const std::function<void(std::uint64_t process)>& on_death) {
  SLUICE_ASSERT(beside_ == 0);
  const std::uint64_t process = beside_ = next_process();
  if (killed_after.has_value()) beside_killed_step_ = steps_ + *killed_after;
  const auto until_end = [this, &body] {
    body();
    beside_killed_step_ = UINT64_MAX;
  };
  const std::shared_ptr<SimFiber> first = start("a process", until_end, process);
  join(*first);
  const bool was_killed = std::exchange(beside_, 0) == 0;
  if (was_killed) on_death(process);
  return !was_killed;
}

// Between two steps, so none of its fibers runs.
void Scheduler::kill_beside() {
  beside_killed_step_ = UINT64_MAX;
  const std::uint64_t process = std::exchange(beside_, 0);
  for (const std::shared_ptr<SimFiber>& fiber : std::vector<std::shared_ptr<SimFiber>>(fibers_)) {
    if (fiber->process != process) continue;
    abandon(*fiber);
    wake_all(fiber->joiners);
  }
}

std::shared_ptr<SimFiber> Scheduler::start(std::string name, std::function<void()> body) {
  return start(std::move(name), std::move(body), process());
}

std::shared_ptr<SimFiber> Scheduler::start(std::string name, std::function<void()> body, std::uint64_t process) {
  auto fiber = std::make_shared<SimFiber>(++fiber_count_, process, std::move(name), std::move(body));
  fibers_.push_back(fiber);
  ready_.push_back(fiber.get());
  return fiber;
}

void Scheduler::join(SimFiber& fiber) {
  while (!fiber.fiber.done()) park(fiber.joiners, Time::max());
}

void Scheduler::abandon(SimFiber& fiber) {
  if (fiber.fiber.done()) return;
  if (fiber.waits_in != nullptr) make_ready(fiber, false);
  std::erase(ready_, &fiber);
  fiber.fiber.abandon();
  remove(fiber);
}

void Scheduler::pause() {
  if (current_ == nullptr) return;
  ready_.push_back(current_);
  give_way();
}

bool Scheduler::park(WaitList& list, Time deadline, bool may_wake_spuriously) {
  if (current_ == nullptr)
    throw std::logic_error("a call that waits for " + list.what_ + " outside of Simulation::run");
  if (deadline <= now_) {
    pause();
    return false;
  }
  SimFiber& self = *current_;
  renew(list);
  list.waiting_.push_back(&self);
  self.waits_in = &list;
  self.deadline = deadline;
  self.may_wake_spuriously = may_wake_spuriously;
  if (deadline != Time::max()) deadlines_.emplace(std::pair(deadline, self.number), &self);
  give_way();
  return !self.timed_out;
}

void Scheduler::sleep_until(Time time) {
  while (now_ < time) park(sleepers_, time);
}

void Scheduler::wake_one(WaitList& list) {
  renew(list);
  if (list.waiting_.empty()) return;
  make_ready(*list.waiting_[random_.below(list.waiting_.size())], false);
}

void Scheduler::wake_all(WaitList& list) {
  renew(list);
  while (!list.waiting_.empty()) make_ready(*list.waiting_.front(), false);
}

void Scheduler::wake_due() {
  while (!deadlines_.empty() && deadlines_.begin()->first.first <= now_) {
    make_ready(*deadlines_.begin()->second, true);
  }
}

void Scheduler::wake_someone_spuriously() {
  // When nobody has a deadline either, the process is stuck and shall be seen so.
  if (ready_.empty() && deadlines_.empty()) return;
  std::vector<SimFiber*> candidates;
  for (const auto& fiber : fibers_) {
    if (fiber->waits_in != nullptr && fiber->may_wake_spuriously) candidates.push_back(fiber.get());
  }
  if (!candidates.empty()) make_ready(*candidates[random_.below(candidates.size())], false);
}

void Scheduler::make_ready(SimFiber& fiber, bool timed_out) {
  std::erase(fiber.waits_in->waiting_, &fiber);
  fiber.waits_in = nullptr;
  if (fiber.deadline != Time::max()) deadlines_.erase({fiber.deadline, fiber.number});
  fiber.timed_out = timed_out;
  ready_.push_back(&fiber);
}

// The current fiber stops, with fibers of the code under test that may run inside it.
void Scheduler::give_way() { sluice::detail::Fiber::yield_from(current_->fiber); }

// Forgets those that died with an earlier process (S3).
void Scheduler::renew(WaitList& list) const {
  if (list.life_ == life_) return;
  list.waiting_.clear();
  list.life_ = life_;
}

void Scheduler::end_life() {
  for (const auto& fiber : fibers_) fiber->fiber.abandon();
  fibers_.clear();
  ready_.clear();
  deadlines_.clear();
  crash_reason_.clear();
  beside_ = 0;
  beside_killed_step_ = UINT64_MAX;
  ++life_;
  process_ = next_process();
}

void Scheduler::remove(SimFiber& fiber) {
  const auto at = std::lower_bound(fibers_.begin(), fibers_.end(), fiber.number,
                                   [](const auto& each, std::uint64_t number) { return each->number < number; });
  SLUICE_ASSERT(at != fibers_.end() && at->get() == &fiber);
  fibers_.erase(at);
}

std::string Scheduler::who_waits() const {
  std::string text;
  for (const auto& fiber : fibers_) {
    text += "\n  " + fiber->name;
    text += fiber->waits_in != nullptr ? " waits for " + fiber->waits_in->what_ : std::string(" is ready to run");
  }
  return text;
}

}  // namespace sluice::testing::detail
