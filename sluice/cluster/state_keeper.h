// The state that an executor has, and the copies that it keeps of what others have; and blocks of services, which the
// next driver may want as it does state.
//
// Invariants:
//  K1. Changes of a batch wait beside a copy until those of the next batch come or the driver says that the batch is
//      complete. A copy that has become the state still has them: when the batch is run again they are dropped, and the
//      batch gives what it gave; when a later one comes they are taken in.
//  K2. What a batch has changed of a state is asked for (`changes_of`) before the batch is reported, and only where a
//      copy is kept: then checkpoints are written by who keeps that.
//  K3. When the driver is lost, all of it is kept aside. Nothing of it is seen by tasks or other executors until the
//      next driver says that it goes on with it (`take_up`), or it goes.
//  K4. Of an executor that has missed a driver no block is used: that one may have given its id to another.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "sluice/cluster/messages.h"
#include "sluice/core/program.h"
#include "sluice/core/stores.h"

namespace sluice::detail {

/// See the head of this file. Threads: safe from all threads; one at a time works on a state.
class StateKeeper {
 public:
  /// `blocks`: for cached partitions and blocks of services.
  explicit StateKeeper(std::unique_ptr<BlockStore> blocks) : blocks_(std::move(blocks)) { states_.track(); }

  /// Where tasks find it.
  StateStore& store() { return states_; }
  BlockStore& blocks() { return *blocks_; }
  void set_hash_seed(std::uint64_t seed) { hash_seed_ = seed; }

  // -- for tasks
  /// Makes the task's state ready for its batch. False: of an operation in `must_exist` there is none.
  bool prepare(const TaskProgram& task, const std::vector<std::uint64_t>& must_exist);
  /// What a task that has succeeded has changed, for the copies. `must_exist`: of others a copy begins.
  std::vector<StateChanges> changes_of(const TaskProgram& task, const std::vector<std::uint64_t>& must_exist);

  // -- for other executors
  /// Takes in what has changed of a state that a copy is kept of here. `is_peer`: its sender has not been lost yet;
  /// what comes later would be taken for something of who has its place now. Errors: SLU-211 no copy is kept, or it is
  /// lost.
  void take(StateChanges&& changes, const std::function<bool()>& is_peer);

  // -- for the driver
  /// All but StateRequest::What::copy. Errors are in the reply.
  StateReply handle(const StateRequest& request);
  /// For StateRequest::What::copy: all of a state. Errors: SLU-211.
  StateChanges whole(const StateRequest& request);
  void forget(const std::vector<std::pair<std::uint64_t, std::uint32_t>>& states);
  /// A driver begins: of that epoch of the application (StateRequest::What::resume). What was kept for another
  /// application goes. Errors: SLU-402 a newer driver of this application has been heard of.
  void begin(const std::string& application, std::uint64_t epoch);
  /// The driver is lost (K3). True when anything is kept.
  bool keep_aside();
  /// The driver goes on without what is kept.
  void drop_aside();

 private:
  using Key = std::pair<std::uint64_t, std::uint32_t>;
  struct Kept {
    /// Of a copy; a state lies in states_.
    std::shared_ptr<StatePartition> copy;
    /// 0: nothing waits.
    std::int64_t waiting_batch = 0;
    std::vector<StateBlock> waiting;
    /// The request that has frozen it; 0: nothing is frozen.
    std::int64_t frozen = 0;
  };

  std::shared_ptr<StatePartition> make(const std::string& maker, std::uint32_t partition) const;
  std::shared_ptr<StatePartition> find(const Key& key, const Kept& kept) {
    return kept.copy != nullptr ? kept.copy : states_.find(key.first, key.second);
  }
  static void settle(Kept& kept, StatePartition& state, std::int64_t batch);
  static void drop_frozen(Kept& kept, StatePartition& state);
  void answer(const StateRequest& request, StateReply& reply);
  void take_up(const Key& key, const StateRequest& request);
  std::vector<std::uint64_t> keep_blocks(const std::vector<std::uint64_t>& owners);

  std::mutex mutex_;
  StateStore states_;
  std::map<Key, Kept> kept_;
  /// What the driver said that was lost (K3); a state is its own copy.
  std::map<Key, Kept> aside_;
  std::uint64_t aside_epoch_ = 0;
  /// What the blocks of services are of (K4): of this driver, or of one since, if they ran.
  std::uint64_t blocks_since_ = 0;
  std::uint64_t lost_epoch_ = 0;
  const std::unique_ptr<BlockStore> blocks_;
  std::string application_;
  std::uint64_t epoch_ = 0;
  std::uint64_t hash_seed_ = 0;
};

}  // namespace sluice::detail
