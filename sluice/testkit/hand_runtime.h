// The real threads of this process under a clock that moves only when the test says so.
#pragma once

#include <memory>

#include "sluice/runtime/runtime.h"

namespace sluice::testing {

/// A Runtime whose clock starts at `start` and moves only by `advance`. Files, network and threads are the system's.
/// Deadlines of `read` and `accept` are by the hand-turned clock (looked at every 5 ms while they block); those of
/// `write` and `connect` are as far off by the system's clock as they are by this one when the call begins.
///
/// Threads: all members are safe from all threads. It must outlive its conditions and connections.
class HandRuntime : public Runtime {
 public:
  explicit HandRuntime(Time start = Time(std::chrono::seconds(1'700'000'000)));
  ~HandRuntime() override;

  /// Moves the clock and wakes all whose deadline has come. Does not wait for them: wait for what they do.
  void advance(Duration by);

  Clock& clock() override;
  FileSystem& files() override;
  Transport& transport() override;
  std::unique_ptr<Thread> spawn(std::string name, std::function<void()> body) override;
  std::unique_ptr<Condition> condition() override;
  std::unique_ptr<Executors> executors(std::size_t cores) override;
  std::uint64_t random_seed() override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sluice::testing
