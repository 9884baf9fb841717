// Functions of the driver that take turns at their actions, so that these can be planned together.
//
// The output functions of a batch are run as fibers. One that asks for the records of an RDD stops there; when all have
// stopped or ended, everything that was asked for is one job, in which shared nodes run once. Functions never run at
// the same time, and start in order.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "sluice/core/engine.h"
#include "sluice/runtime/fiber.h"

namespace sluice::detail {

class Turns {
 public:
  Turns(Engine& engine, const JobOptions& options);
  ~Turns();
  Turns(const Turns&) = delete;
  Turns& operator=(const Turns&) = delete;

  /// What a function threw, or nullptr, in the order of `functions`.
  std::vector<std::exception_ptr> run(std::vector<std::function<void()>> functions);

  /// What can be seen outside the engine of what a job does: nothing; its results, when the function has them; what its
  /// tasks do.
  enum class Seen { nothing, results, tasks };
  /// Records of `node`: inside a function of some Turns by joining its next job, elsewhere by a job of their own.
  /// Passes the gate of JobOptions before anything of it is seen. Rethrows why they could not be made.
  static std::vector<RestedPtr> collect(Engine& engine, const NodePtr& node, Seen seen = Seen::results);

  /// True inside a function of some Turns.
  static bool playing();

 private:
  struct Player;
  std::vector<RestedPtr> ask(const NodePtr& node, Seen seen);
  std::vector<JobResult> run_job(const std::vector<NodePtr>& targets, Seen seen);

  Engine& engine_;
  const JobOptions options_;
  std::vector<std::unique_ptr<Player>> players_;
  Player* playing_ = nullptr;
};

}  // namespace sluice::detail
