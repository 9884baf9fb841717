#include "sluice/core/turns.h"

#include <algorithm>

namespace sluice::detail {

struct Turns::Player {
  std::unique_ptr<Fiber> fiber;
  std::exception_ptr error;
  NodePtr wanted;
  Seen seen = Seen::results;
  JobResult got;
};

namespace {
// Turns that play on this thread, innermost last: a function may itself run a batch program. Keyed by fiber, because in
// the simulation several drivers share the thread.
thread_local std::vector<std::pair<Fiber*, Turns*>> playing_fibers;
}  // namespace

Turns::Turns(Engine& engine, const JobOptions& options) : engine_(engine), options_(options) {}
Turns::~Turns() = default;

std::vector<std::exception_ptr> Turns::run(std::vector<std::function<void()>> functions) {
  for (auto& function : functions) {
    players_.push_back(std::make_unique<Player>());
    players_.back()->fiber = std::make_unique<Fiber>(std::move(function));
    playing_fibers.emplace_back(players_.back()->fiber.get(), this);
  }
  std::vector<Player*> asking;
  for (bool first = true; first || !asking.empty(); first = false) {
    asking.clear();
    for (const auto& player : players_) {
      if (player->fiber->done()) continue;
      playing_ = player.get();
      try {
        player->fiber->resume();
      } catch (...) {
        player->error = std::current_exception();
      }
      if (player->wanted != nullptr) asking.push_back(player.get());
    }
    if (asking.empty()) break;
    std::vector<NodePtr> targets;
    Seen seen = Seen::nothing;
    for (Player* player : asking) {
      targets.push_back(std::move(player->wanted));
      seen = std::max(seen, player->seen);
    }
    std::vector<JobResult> results = run_job(targets, seen);
    for (std::size_t i = 0; i < asking.size(); ++i) {
      asking[i]->got = std::move(results[i]);
      asking[i]->wanted = nullptr;
    }
  }
  std::vector<std::exception_ptr> errors;
  for (const auto& player : players_) {
    std::erase_if(playing_fibers, [&](const auto& entry) { return entry.first == player->fiber.get(); });
    errors.push_back(player->error);
  }
  players_.clear();
  return errors;
}

// Results are held back, not the work: the disk and the tasks go on at the same time.
std::vector<JobResult> Turns::run_job(const std::vector<NodePtr>& targets, Seen seen) {
  const auto pass_gate = [this] {
    if (options_.gate) options_.gate();
  };
  try {
    if (seen == Seen::tasks) pass_gate();
    std::vector<JobResult> results = engine_.run(targets, options_);
    if (seen == Seen::results) pass_gate();
    return results;
  } catch (...) {
    std::vector<JobResult> failed(targets.size());
    for (JobResult& result : failed) result.error = std::current_exception();
    return failed;
  }
}

std::vector<RestedPtr> Turns::ask(const NodePtr& node, Seen seen) {
  Player* const self = playing_;
  self->wanted = node;
  self->seen = seen;
  Fiber::yield();
  JobResult got = std::move(self->got);
  if (got.error != nullptr) std::rethrow_exception(got.error);
  return std::move(got.partitions);
}

bool Turns::playing() {
  const Fiber* const fiber = Fiber::current();
  return std::any_of(playing_fibers.begin(), playing_fibers.end(),
                     [fiber](const auto& entry) { return entry.first == fiber; });
}

std::vector<RestedPtr> Turns::collect(Engine& engine, const NodePtr& node, Seen seen) {
  if (TaskContext::current() != nullptr) {
    throw Error(Code::bad_argument, {.why = "an RDD or DStream was used inside a function that runs in tasks",
                                     .operation = node->info->name,
                                     .where = node->info->where});
  }
  Fiber* const fiber = Fiber::current();
  for (const auto& [playing, turns] : playing_fibers) {
    if (playing == fiber && &turns->engine_ == &engine) return turns->ask(node, seen);
  }
  JobResult result = std::move(engine.run({node})[0]);
  if (result.error != nullptr) std::rethrow_exception(result.error);
  return std::move(result.partitions);
}

}  // namespace sluice::detail
