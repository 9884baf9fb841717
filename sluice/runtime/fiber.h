// Fibers: functions with a stack of their own that take turns on one thread.
//
// Used where code must be able to stop in the middle and be continued later without a second thread: the simulation,
// and output functions of a batch, which take turns at their actions so that these can be planned together.
// Exceptions may be in flight or handled when a fiber yields (the handler stack is switched with it). Sanitizers are
// told of each switch.
#pragma once

#include <cstddef>
#include <exception>
#include <functional>
#include <memory>

namespace sluice::detail {

/// Threads: resume, yield and destruction happen on one thread.
class Fiber {
 public:
  /// `stack_bytes` is address space; only what is touched takes memory. Stacks are pooled per thread.
  explicit Fiber(std::function<void()> body, std::size_t stack_bytes = 1 << 20);
  /// The body must have ended, never been resumed, or been abandoned.
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Runs the body until it yields or ends; rethrows what the body threw. Must not be called when `done()`.
  void resume();
  bool done() const;
  /// Forgets a body that has not ended, as a killed process does: nothing on its stack is destroyed, and what that
  /// holds is never freed. `done()` from then on. Not from inside the fiber.
  void abandon();

  /// Goes back to the `resume()` that runs the current fiber. Must be called inside a fiber.
  static void yield();
  /// Goes back to the `resume()` that runs `fiber`, which is the current one or one outside it: all fibers from `fiber`
  /// to the current one stop together, and the next `resume()` of `fiber` goes on here.
  static void yield_from(Fiber& fiber);
  /// The fiber that runs on this thread, or nullptr.
  static Fiber* current();
  /// A pointer of the current fiber's own (of the thread's outside fibers), null at first: what thread_local is to
  /// threads.
  static void*& local();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sluice::detail
