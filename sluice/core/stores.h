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
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "sluice/core/program.h"
#include "sluice/core/state.h"

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
  /// The map partition lies in another process: it is not missing, and `get` is asked there. True the first time ever:
  /// not when it was lost meanwhile.
  bool put_elsewhere(std::uint64_t shuffle, std::size_t map_partition);
  /// It is missing again.
  void lose(std::uint64_t shuffle, std::size_t map_partition);
  /// All buckets for `target` in the order of map partitions. The shuffle must be complete.
  std::vector<BucketPtr> get(std::uint64_t shuffle, std::size_t target);
  /// One of them, perhaps nullptr. nullopt when the map partition is missing.
  std::optional<BucketPtr> find(std::uint64_t shuffle, std::size_t map_partition, std::size_t target);
  bool complete(std::uint64_t shuffle);
  void close(std::uint64_t shuffle);
  std::size_t size();

 private:
  struct Shuffle {
    std::size_t missing = 0;
    std::vector<std::vector<BucketPtr>> maps;
    std::vector<bool> present;
    /// Also those that were lost since.
    std::vector<bool> ever_elsewhere;
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
  /// It lies in another process: `has` says so, and `get` is asked there. False when it is there already.
  bool put_elsewhere(const BlockId& id);
  /// It is not there any more.
  void lose(const BlockId& id);
  /// nullptr when it is not there (any more). Reads it back from disk where it lies there.
  RestedPtr get(const BlockId& id);
  bool has(const BlockId& id);
  /// Removes all blocks of an owner, whose id must not be used again.
  void remove_owner(std::uint64_t owner) { remove_owners(owner, owner); }
  /// The same for all owners from the first to the last.
  void remove_owners(std::uint64_t first, std::uint64_t last);

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
  void remove(std::uint64_t operation, std::size_t partition);
  void clear();

 private:
  std::mutex mutex_;
  std::map<std::pair<std::uint64_t, std::size_t>, std::shared_ptr<StatePartition>> states_;
  std::atomic<bool> tracks_{false};
};

}  // namespace sluice::detail
