// Which executor has which partitions, and their state.
//
// Partition p of everything belongs to slot p. A slot has an owner, on which its tasks run and its state lies, and once
// it has state a second executor that keeps a copy of that and takes over when the owner is lost.
//
// Invariants:
//  P1. A lost owner's slots are its copies' at once, and these are told so before the next round, by `settle`. State is
//      taken over as of the last batch that is complete: the running one is run again.
//  P2. Copies are made and slots are moved between batches only (`completed`). What an executor that leaves has is on
//      others before it is let go.
//  P3. After any of that it is not known what has changed since the last checkpoint: `take_moved` says so once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "sluice/cluster/members.h"
#include "sluice/cluster/messages.h"
#include "sluice/core/closure.h"
#include "sluice/core/state.h"
#include "sluice/core/task_runner.h"

namespace sluice::detail {

/// See the head of this file. Threads: safe from all threads; what P1 and P2 speak of is done by one at a time.
class Slots {
 public:
  /// `copies`: state is kept twice where there are two executors.
  Slots(Members& members, bool copies);

  struct Place {
    /// 0: no executor is ready.
    ExecutorId owner = 0;
    /// 0: none.
    ExecutorId copy = 0;
    /// The state of the slot is lost.
    bool is_lost = false;
    /// The operation asked for has state there.
    bool has_state = false;
    /// The owner has just taken over and is not told so yet (P1).
    bool is_unsettled = false;
  };
  /// Assigns the slot if need be.
  Place place(std::size_t partition, std::uint64_t operation = 0);
  /// The operation has state in the partition's slot, from now on.
  void add(const Shipped<StateMaker>& maker, std::size_t partition);
  /// See TaskRunner::take_up_state. Called before there is any state.
  std::optional<std::set<std::size_t>> take_up(const TaskRunner::WantedStates& wanted,
                                               const std::map<ExecutorId, std::vector<KeptState>>& kept);
  /// Its state is not needed any more. True when it had one.
  bool remove(std::uint64_t operation, std::size_t partition);

  /// The executor is lost, or (`copy_lost`) the copies that it keeps for another one are.
  void lost(ExecutorId id);
  void copy_lost(ExecutorId owner, ExecutorId copy);
  /// Those that have taken over are told so. Before each round.
  void settle();
  /// All of the batch is done: gives slots their copies again, and executors that have come their part.
  void completed(std::int64_t batch);
  /// True when the executor, which leaves, has nothing any more that is needed.
  bool is_free(ExecutorId id);
  std::int64_t completed_batch();
  /// Those of `ids` that copies of what `owner` has may lie on: of other hosts, if there are any.
  std::vector<ExecutorId> for_copies(const std::vector<ExecutorId>& ids, ExecutorId owner) const;
  bool take_moved();

  Members& members() { return members_; }

 private:
  struct Slot {
    ExecutorId owner = 0;
    ExecutorId copy = 0;
    bool is_lost = false;
    /// The owner has the copy and does not know yet that it is the state now.
    bool must_promote = false;
    std::map<std::uint64_t, Shipped<StateMaker>> states;
  };
  using Requests = std::vector<std::pair<ExecutorId, StateRequest>>;

  Slot& slot(std::size_t partition);
  /// Of how many slots each of these is the owner, or the one with the copy.
  std::map<ExecutorId, std::size_t> count(const std::vector<ExecutorId>& ids, ExecutorId Slot::* role) const;
  void add_requests(const Slot& slot, StateRequest::What what, ExecutorId to, Requests& requests) const;
  bool lacks_copy(const Slot& slot, const std::vector<ExecutorId>& ids, const std::vector<ExecutorId>& leaving) const;
  std::vector<Slot>::iterator choose_move(const std::vector<ExecutorId>& ids, const std::vector<ExecutorId>& leaving);
  bool make_copy();
  bool move_one();
  static std::vector<ExecutorId> who_has(const std::vector<TaskRunner::WantedState>& wanted, std::size_t partition,
                                         const std::map<ExecutorId, std::vector<KeptState>>& kept);

  Members& members_;
  const bool copies_;
  std::mutex mutex_;
  std::vector<Slot> slots_;
  std::int64_t completed_ = 0;
  bool moved_ = false;
  bool must_settle_ = false;
  /// All slots have copies and are spread evenly over these; empty: perhaps not.
  std::vector<ExecutorId> settled_for_;
};

/// A partition of state that lies on an executor, for the driver.
std::shared_ptr<StatePartition> make_remote_state(Slots& slots, const Shipped<StateMaker>& maker, std::size_t partition,
                                                  std::function<void()> removed);

}  // namespace sluice::detail
