// What tasks leave behind in a process: shuffle output, blocks, keyed state.
//
// Threads: all stores are safe from all threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "sluice/core/program.h"

namespace sluice::detail {

/// Buckets of shuffles, by (shuffle, map partition, target). Inside one process a bucket is handed over by pointer.
class ShuffleStore {
 public:
  /// Room for a shuffle; its map partitions are missing at first. Nothing when it is open already: what an earlier,
  /// failed job has put there stays.
  void open(std::uint64_t shuffle, std::size_t map_partitions);
  /// Which map partitions are not missing. The shuffle must be open.
  std::vector<bool> present(std::uint64_t shuffle);
  /// Adopts the buckets of a map partition; the first attempt that arrives wins, later ones are dropped (they are
  /// equal, see DESIGN 5), and the answer is false.
  bool put(std::uint64_t shuffle, std::size_t map_partition, std::vector<BucketPtr> buckets);
  /// All buckets for `target` in the order of map partitions. The shuffle must be complete.
  std::vector<BucketPtr> get(std::uint64_t shuffle, std::size_t target);
  bool complete(std::uint64_t shuffle);
  void close(std::uint64_t shuffle);
  std::size_t size();

 private:
  struct Shuffle {
    std::size_t missing = 0;
    std::vector<std::vector<BucketPtr>> maps;
    std::vector<bool> present;
  };
  std::mutex mutex_;
  std::unordered_map<std::uint64_t, Shuffle> shuffles_;
};

/// How a cached partition is kept. Blocks of receivers are kept in memory until their batch is done.
enum class Keep : int { memory = 1, memory_and_disk = 2, disk = 3 };

/// Records at rest: typed chunks and the arena their views point to. Immutable once adopted.
class RestedRecords {
 public:
  explicit RestedRecords(const TypeOps& type);
  ~RestedRecords();
  RestedRecords(const RestedRecords&) = delete;
  RestedRecords& operator=(const RestedRecords&) = delete;

  /// Copies the records and what their views point to.
  void append(const void* records, std::size_t count);
  void push_all(Pipe& out) const;
  std::size_t count() const { return count_; }
  std::size_t bytes() const { return bytes_ + arena_.reserved_bytes(); }
  const TypeOps& type() const { return type_; }
  void encode_to(Encoder& out) const;
  static std::shared_ptr<const RestedRecords> decode_from(Decoder& in, const TypeOps& type);
  static void decode_into(Decoder& in, RestedRecords& records);

 private:
  struct Segment {
    PooledMemory memory;
    std::size_t used = 0;
  };
  const TypeOps& type_;
  std::vector<Segment> segments_;
  std::size_t count_ = 0;
  std::size_t bytes_ = 0;
  Arena arena_;
};

/// Cached partitions within a budget of bytes: least recently used ones leave memory first, to disk where their level
/// has one, else for good (they are computed again from lineage).
class BlockStore {
 public:
  struct Options {
    std::size_t memory_bytes = std::size_t{1} << 30;
    /// Where a directory for what does not fit is made when it is first needed. Empty: nothing goes to disk.
    std::string spill_directory;
  };
  BlockStore(Runtime& runtime, Options options);
  ~BlockStore();

  /// Keeps `records`, unless `id` is there already: then false. Keep::disk, and what is larger than the whole budget
  /// and may go to disk, is written at once and not kept in memory. What cannot be written stays in memory, over the
  /// budget: some records cannot be made again.
  bool put(const BlockId& id, const RestedPtr& records, Keep level);
  /// nullptr when it is not there (any more). Reads it back from disk where it lies there.
  RestedPtr get(const BlockId& id);
  bool has(const BlockId& id);
  /// Removes all blocks of an owner, whose id must not be used again.
  void remove_owner(std::uint64_t owner);

  std::size_t memory_bytes();
  /// Partitions that left memory, were written to disk, could not be written, or were found damaged there, so far.
  struct Counters {
    std::uint64_t evicted = 0;
    std::uint64_t spilled = 0;
    std::uint64_t spill_failures = 0;
    std::uint64_t damaged = 0;
  };
  Counters counters();

 private:
  // In memory: `records`, and a place in least_recent_. Being written: `records` alone. On disk: neither.
  struct Block {
    RestedPtr records;
    const TypeOps* type = nullptr;
    Keep level = Keep::memory;
    std::size_t bytes = 0;
    bool on_disk = false;
    std::list<BlockId>::iterator used;
  };
  std::string path_of(const BlockId& id) const;
  bool has_disk(Keep level) const { return level != Keep::memory && !options_.spill_directory.empty(); }
  void make_room(std::size_t bytes);
  bool spill(const BlockId& id, const RestedRecords& records);
  void write(const BlockId& id, const RestedRecords& records);
  RestedPtr read_back(const BlockId& id, const TypeOps& type);

  Runtime& runtime_;
  Options options_;
  std::mutex mutex_;
  std::map<BlockId, Block> blocks_;
  std::list<BlockId> least_recent_;  // front: used longest ago
  std::size_t memory_bytes_ = 0;
  Counters counters_;
  bool directory_made_ = false;
};

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
  /// Appends frozen content, at least one block, until they have about `bytes_max`. False when nothing is left.
  virtual bool write(std::size_t bytes_max, std::vector<StateBlock>& out) = 0;
  /// Takes in a block of a checkpoint; blocks of older checkpoints come first. `written`: how it was written. Keys of
  /// other partitions are left out. Errors: SLU-301, SLU-302.
  virtual void load(const StateBlock& block, const StateSchema& written) = 0;
  /// All blocks are loaded: the state is that after the operator's batch `version`.
  virtual void loaded(std::int64_t version) = 0;
  /// The operator's last batch; 0: there was none.
  virtual std::int64_t last_batch() const = 0;
  /// All of it counts as changed.
  virtual void mark_all() = 0;
};

/// State of operators, by (operator, partition). One task works on a partition at a time.
class StateStore {
 public:
  /// The partition's state, made by `make` when it is not there.
  std::shared_ptr<StatePartition> get(std::uint64_t operation, std::size_t partition,
                                      const std::function<std::shared_ptr<StatePartition>()>& make);
  /// nullptr when it is not there.
  std::shared_ptr<StatePartition> find(std::uint64_t operation, std::size_t partition);
  void put(std::uint64_t operation, std::size_t partition, std::shared_ptr<StatePartition> state);
  /// From now on state that is made keeps its changes in mind (StatePartition::track).
  void track() { tracks_ = true; }
  void remove(std::uint64_t operation);

 private:
  std::mutex mutex_;
  std::map<std::pair<std::uint64_t, std::size_t>, std::shared_ptr<StatePartition>> states_;
  std::atomic<bool> tracks_{false};
};

}  // namespace sluice::detail
