#include "sluice/testkit/hand_runtime.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "sluice/runtime/errors.h"

namespace sluice::testing {
namespace {

/// One call of Condition::wait_until.
struct Waiter {
  Condition& wake;
  Time deadline;
  bool notified = false;
  bool due = false;
};

// The clock and all who wait for it.
//
// Threads: `mutex` guards all members and all flags of waiters. It is the innermost lock: nobody takes another one
// while holding it. A waiter is entered under it together with the look at the clock, so an advance sees either the
// waiter or is seen by it.
struct Turns final : Clock {
  mutable std::mutex mutex;
  Time time;
  std::vector<Waiter*> waiters;

  explicit Turns(Time start) : time(start) {}

  Time now() const override {
    const std::lock_guard lock(mutex);
    return time;
  }
};

class HandCondition final : public Condition {
 public:
  explicit HandCondition(Turns& turns) : turns_(turns), wake_(system_runtime().condition()) {}

  void wait(std::unique_lock<std::mutex>& lock) override { wait_until(lock, Time::max()); }

  bool wait_until(std::unique_lock<std::mutex>& lock, Time deadline) override {
    Waiter waiter{*wake_, deadline};
    {
      std::unique_lock turns(turns_.mutex);
      waiter.due = deadline <= turns_.time;
      turns_.waiters.push_back(&waiter);
      mine_.push_back(&waiter);
      // Entered first and unlocked then: who changes the condition under `lock` and notifies, finds the waiter.
      lock.unlock();
      while (!waiter.notified && !waiter.due) wake_->wait(turns);
      std::erase(turns_.waiters, &waiter);
      std::erase(mine_, &waiter);
    }
    lock.lock();
    return waiter.notified;
  }

  // Under the mutex to the end: a waiter that has been told may destroy this condition.
  void notify_one() override {
    const std::lock_guard turns(turns_.mutex);
    const auto next = std::find_if(mine_.begin(), mine_.end(), [](const Waiter* w) { return !w->notified && !w->due; });
    if (next == mine_.end()) return;
    (*next)->notified = true;
    wake_->notify_all();
  }

  void notify_all() override {
    const std::lock_guard turns(turns_.mutex);
    for (Waiter* waiter : mine_) waiter->notified = true;
    wake_->notify_all();
  }

 private:
  Turns& turns_;
  const std::unique_ptr<Condition> wake_;
  std::vector<Waiter*> mine_;
};

// How long a blocked call of the system's network goes on before it looks at the clock that is turned by hand.
constexpr Duration slice = std::chrono::milliseconds(5);

Time next_look() { return system_runtime().clock().now() + slice; }

// For calls that cannot be cut into slices: as long by the system's clock as is left by the hand's.
Time system_deadline(const Clock& hand, Time deadline) {
  if (deadline == Time::max()) return deadline;
  const Duration left = std::clamp<Duration>(deadline - hand.now(), Duration::zero(), std::chrono::hours(24));
  return system_runtime().clock().now() + left;
}

class HandConnection final : public Connection {
 public:
  HandConnection(const Clock& hand, std::unique_ptr<Connection> system) : hand_(hand), system_(std::move(system)) {}

  std::optional<std::size_t> read(std::span<char> into, Time deadline) override {
    while (true) {
      // Looked at before the read: bytes that came before the clock was turned are still read.
      const bool last = deadline <= hand_.now();
      const std::optional<std::size_t> count = system_->read(into, last ? Time() : next_look());
      if (count || last) return count;
    }
  }

  void write(std::string_view bytes, Time deadline) override {
    system_->write(bytes, system_deadline(hand_, deadline));
  }

  void close() override { system_->close(); }
  void close_with(std::string_view last_words) override { system_->close_with(last_words); }
  std::string peer() const override { return system_->peer(); }

 private:
  const Clock& hand_;
  const std::unique_ptr<Connection> system_;
};

class HandConnector final : public Connector {
 public:
  HandConnector(const Clock& hand, std::unique_ptr<Connector> system) : hand_(hand), system_(std::move(system)) {}

  std::unique_ptr<Connection> connect(Time deadline) override {
    return std::make_unique<HandConnection>(hand_, system_->connect(system_deadline(hand_, deadline)));
  }

  void close() override { system_->close(); }

 private:
  const Clock& hand_;
  const std::unique_ptr<Connector> system_;
};

class HandListener final : public Listener {
 public:
  HandListener(const Clock& hand, std::unique_ptr<Listener> system) : hand_(hand), system_(std::move(system)) {}

  std::unique_ptr<Connection> accept(Time deadline) override {
    while (true) {
      const bool last = deadline <= hand_.now() || closed_;
      std::unique_ptr<Connection> connection = system_->accept(last ? Time() : next_look());
      if (connection) return std::make_unique<HandConnection>(hand_, std::move(connection));
      if (last) return nullptr;
    }
  }

  Address address() const override { return system_->address(); }

  void close() override {
    closed_ = true;
    system_->close();
  }

 private:
  const Clock& hand_;
  const std::unique_ptr<Listener> system_;
  std::atomic<bool> closed_{false};
};

class HandTransport final : public Transport {
 public:
  explicit HandTransport(const Clock& hand) : hand_(hand) {}

  std::unique_ptr<Connector> connector(const Address& address) override {
    return std::make_unique<HandConnector>(hand_, system_runtime().transport().connector(address));
  }

  std::unique_ptr<Listener> listen(const Address& address) override {
    return std::make_unique<HandListener>(hand_, system_runtime().transport().listen(address));
  }

  std::unique_ptr<Listener> listen_anywhere(const Address& address) override {
    return std::make_unique<HandListener>(hand_, system_runtime().transport().listen_anywhere(address));
  }

 private:
  const Clock& hand_;
};

}  // namespace

struct HandRuntime::State {
  explicit State(Time start) : turns(start), transport(turns) {}

  Turns turns;
  HandTransport transport;
};

HandRuntime::HandRuntime(Time start) : state_(std::make_unique<State>(start)) {}

HandRuntime::~HandRuntime() {
  const std::lock_guard lock(state_->turns.mutex);
  SLUICE_ASSERT(state_->turns.waiters.empty());
}

void HandRuntime::advance(Duration by) {
  SLUICE_ASSERT(by >= Duration::zero());
  Turns& turns = state_->turns;
  const std::lock_guard lock(turns.mutex);
  turns.time += by;
  for (Waiter* waiter : turns.waiters) {
    if (waiter->deadline > turns.time) continue;
    waiter->due = true;
    waiter->wake.notify_all();
  }
}

Clock& HandRuntime::clock() { return state_->turns; }

FileSystem& HandRuntime::files() { return system_runtime().files(); }

Transport& HandRuntime::transport() { return state_->transport; }

std::unique_ptr<Thread> HandRuntime::spawn(std::string name, std::function<void()> body) {
  return system_runtime().spawn(std::move(name), std::move(body));
}

std::unique_ptr<Condition> HandRuntime::condition() { return std::make_unique<HandCondition>(state_->turns); }

std::unique_ptr<Executors> HandRuntime::executors(std::size_t cores) { return system_runtime().executors(cores); }

std::uint64_t HandRuntime::random_seed() { return system_runtime().random_seed(); }

}  // namespace sluice::testing
