// State of operators that lives from batch to batch, as the engine sees it: what is in it is known to the operator
// alone (stream/keyed_state.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace sluice::detail {

/// A piece of a partition's state as it is kept in checkpoints. Types are left out, so that checkpoints can be merged
/// and inspected without the program; docs/formats.md says what the bytes are.
struct StateBlock {
  /// entries: keys of one key group that changed or went. log: what one batch brought in, kept until it leaves a
  /// window.
  enum class What : std::uint8_t { entries = 1, log = 2 } what = What::entries;
  /// Of entries.
  std::uint32_t group = 0;
  /// Of a log: batch time.
  std::int64_t batch = 0;
  std::string bytes;
};

/// How an operator's state is written: kept beside it, and compared when a program takes it up again.
struct StateSchema {
  /// Kind of operator: "update_state_by_key", "window".
  std::string kind;
  /// schema_of key and value.
  std::string key;
  std::string value;
  /// Size of each encoded key and value; 0: each has its length before it.
  std::uint32_t key_bytes = 0;
  std::uint32_t value_bytes = 0;
  /// Logs of batches up to (last slide - this) have left; 0: there are no logs.
  std::int64_t log_length = 0;
  /// Time between two batches of the operator.
  std::int64_t slide = 0;
  friend bool operator==(const StateSchema&, const StateSchema&) = default;
};

/// State of one partition of one operator; its content is known to the operator alone (keyed_state.h).
///
/// Checkpoints: `freeze` fixes what has changed since the one before; `write` hands it out in pieces, between batches
/// or while they run. A batch that is about to change a frozen group writes that group first. So a checkpoint costs
/// what changed, and no batch waits for more than the groups it touches itself.
///
/// Threads: one at a time, a task or the driver.
class StatePartition {
 public:
  virtual ~StatePartition() = default;
  /// From now on changes are kept in mind for `freeze`.
  virtual void track() = 0;
  /// What `write` gives is what has changed since the last freeze, as it is now. Everything frozen before must have
  /// been written. Cost: O(key groups in use).
  virtual void freeze() = 0;
  /// `freeze` comes next for this partition. Where it lies elsewhere, what `mark_all` and `freeze` ask is asked now,
  /// and waited for then: so many partitions are asked at the same time.
  virtual void begin_freeze() {}
  /// Appends frozen content, at least one block, until they have about `bytes_max`. False when nothing is left.
  virtual bool write(std::size_t bytes_max, std::vector<StateBlock>& out) = 0;
  /// Takes in a block of a checkpoint; blocks of older checkpoints come first. `written`: how it was written. Keys of
  /// other partitions are left out. Errors: SLU-301, SLU-302.
  virtual void load(const StateBlock& block, const StateSchema& written) = 0;
  /// All blocks are loaded: the state is that after the operator's batch `version`.
  virtual void loaded(std::int64_t version) = 0;
  /// The operator's last batch; 0: there was none. Where it lies elsewhere: as of `freeze`.
  virtual std::int64_t last_batch() const = 0;
  /// All of it counts as changed.
  virtual void mark_all() = 0;
  /// Takes in what another partition of the same content has written (`write`, all of it) after its batch `version`;
  /// it may have been more than what is new here. For `freeze` it counts as changed here, too.
  /// Errors: SLU-301, SLU-302.
  virtual void apply(std::span<const StateBlock> blocks, std::int64_t version) = 0;
};

/// Makes partitions of an operator's state, where its tasks run.
class StateMaker {
 public:
  virtual ~StateMaker() = default;
  /// In the StateStore.
  virtual std::uint64_t operation() const = 0;
  virtual std::shared_ptr<StatePartition> make(std::size_t partition, std::uint64_t hash_seed) const = 0;
};

}  // namespace sluice::detail
