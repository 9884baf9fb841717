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
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "sluice/core/packed_bucket.h"
#include "sluice/core/program.h"
#include "sluice/core/state.h"

namespace sluice::detail {

/// A directory for what does not fit into memory: made when something is first written to it, gone at the end. Threads:
/// safe from all threads.
class SpillDirectory {
 public:
  /// One of its own below `parent`, since other processes may have been given the same. Empty: there is none.
  SpillDirectory(Runtime& runtime, const std::string& parent);
  ~SpillDirectory() { remove(); }
  SpillDirectory(const SpillDirectory&) = delete;
  SpillDirectory& operator=(const SpillDirectory&) = delete;

  explicit operator bool() const { return !path_.empty(); }
  FileSystem& files() const { return runtime_.files(); }
  std::string path_of(const std::string& name) const { return path_ + "/" + name; }
  /// Errors: SLU-401.
  std::unique_ptr<File> create(const std::string& name);
  /// What is in it is gone, and so is the directory, until it is written to again.
  void remove();

 private:
  Runtime& runtime_;
  const std::string path_;
  std::atomic<bool> is_made_{false};
  /// It may be there.
  std::atomic<bool> was_made_{false};
};

/// Buckets of shuffles, by (shuffle, map partition, target). Inside one process a bucket is handed over by pointer.
///
/// With a budget, map partitions that were written longest ago leave memory for disk when it is used up, and are read
/// from there, a bucket at a time, each time somebody asks. They are lost when their bytes are not what was written.
class ShuffleStore {
 public:
  struct Options {
    /// Of all buckets in memory. Beyond it are those that are just being written, and those that a disk has refused:
    /// they stay in memory.
    std::size_t memory_bytes = std::size_t{512} << 20;
    /// See SpillDirectory.
    std::string spill_directory;
    Compression compression = Compression::none;
  };
  /// Without a budget.
  ShuffleStore();
  ShuffleStore(Runtime& runtime, const Options& options);
  ~ShuffleStore();

  /// Room for a shuffle; its map partitions are missing at first. Nothing when it is open already: what an earlier,
  /// failed job has put there stays. A store with a budget needs the kernel.
  void open(std::uint64_t shuffle, std::size_t map_partitions, const Shipped<ShuffleKernel>& kernel = {});
  /// Which map partitions are not missing. The shuffle must be open.
  std::vector<bool> present(std::uint64_t shuffle);
  /// Adopts the buckets of a map partition; the first attempt that arrives wins, later ones are dropped (they are
  /// equal, see DESIGN 5), and the answer is false. Writes to disk what goes beyond the budget.
  bool put(std::uint64_t shuffle, std::size_t map_partition, std::vector<BucketPtr> buckets);
  /// The map partition lies in another process: it is not missing, and `get` is asked there. True the first time ever:
  /// not when it was lost meanwhile.
  bool put_elsewhere(std::uint64_t shuffle, std::size_t map_partition);
  /// It is missing again.
  void lose(std::uint64_t shuffle, std::size_t map_partition);
  /// All buckets for `target` in the order of map partitions. The shuffle must be complete, the store without a budget.
  std::vector<BucketPtr> get(std::uint64_t shuffle, std::size_t target);
  /// One of them, perhaps nullptr. nullopt when the map partition is missing; it is, from then on, when it lies on disk
  /// and is damaged there. Cost: what lies on disk is read and decoded, and not kept.
  std::optional<BucketPtr> find(std::uint64_t shuffle, std::size_t map_partition, std::size_t target);
  /// The same packed (packed_bucket.h), empty for nullptr. What lies on disk is not decoded. Needs the kernel.
  std::optional<std::string> find_packed(std::uint64_t shuffle, std::size_t map_partition, std::size_t target);
  bool complete(std::uint64_t shuffle);
  /// True when one of the map partitions has never been put: not when it has been lost since.
  bool is_to_come(std::uint64_t shuffle, const std::vector<std::uint32_t>& map_partitions);
  void close(std::uint64_t shuffle);
  std::size_t size();

  /// For a process that ends without destructors. Nothing may be asked for any more. Only with a budget.
  void remove_spilled() { directory_->remove(); }
  /// Of buckets in memory; 0 where there is no budget.
  std::size_t memory_bytes();
  /// Map partitions that were written to disk, could not be written, or were found damaged there, so far.
  struct Counters {
    std::uint64_t spilled = 0;
    std::uint64_t spill_failures = 0;
    std::uint64_t damaged = 0;
  };
  Counters counters();

 private:
  using Buckets = std::vector<BucketPtr>;
  class SpilledMap;
  struct Place {
    std::uint64_t shuffle = 0;
    std::size_t map_partition = 0;
  };
  // Not missing and in memory: `buckets`, and with a budget a place in oldest_. Being written: `buckets` alone. On
  // disk: `spilled`. Elsewhere: neither.
  struct Map {
    bool is_present = false;
    /// Also when it was lost since.
    bool was_present = false;
    std::shared_ptr<const Buckets> buckets;
    std::shared_ptr<const SpilledMap> spilled;
    std::size_t bytes = 0;
    std::list<Place>::iterator written;
  };
  struct Shuffle {
    std::size_t missing = 0;
    Shipped<ShuffleKernel> kernel;
    std::vector<Map> maps;
  };
  /// Where a bucket is; `spilled` or `bucket`, both null for an empty one.
  struct Found {
    BucketPtr bucket;
    std::shared_ptr<const SpilledMap> spilled;
    Shipped<ShuffleKernel> kernel;
  };
  Map* present_map(std::uint64_t shuffle, std::size_t map_partition);
  void clear(Shuffle& shuffle, Map& map);
  std::optional<Found> look_up(std::uint64_t shuffle, std::size_t map_partition, std::size_t target);
  std::optional<std::string> read_back(const Found& found, std::uint64_t shuffle, std::size_t map_partition,
                                       std::size_t target);
  void make_room();
  bool spill(const Place& place, const ShuffleKernel& kernel, const std::shared_ptr<const Buckets>& buckets);
  std::shared_ptr<const SpilledMap> write(const ShuffleKernel& kernel, const Buckets& buckets);

  const std::size_t memory_bytes_max_ = 0;
  const Compression compression_ = Compression::none;
  std::unique_ptr<SpillDirectory> directory_;
  std::atomic<std::uint64_t> last_file_{0};
  std::mutex mutex_;
  std::unordered_map<std::uint64_t, Shuffle> shuffles_;
  std::list<Place> oldest_;  // front: written longest ago
  std::size_t memory_bytes_ = 0;
  Counters counters_;
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
  BlockStore(Runtime& runtime, const Options& options);

  /// Keeps `records`, unless `id` is there already: then false. Keep::disk, and what is larger than the whole budget
  /// and may go to disk, is written at once and not kept in memory. What cannot be written stays in memory, over the
  /// budget: some records cannot be made again.
  bool put(const BlockId& id, const RestedPtr& records, Keep level);
  /// It lies in another process: `has` says so, and `get` is asked there. False when it is there already.
  bool put_elsewhere(const BlockId& id);
  /// It is not there any more.
  void lose(const BlockId& id);
  /// The same, and it must not be made again: what it is made of may be gone, too.
  void lose_for_good(const BlockId& id);
  bool is_lost_for_good(const BlockId& id);
  /// nullptr when it is not there (any more). Reads it back from disk where it lies there.
  RestedPtr get(const BlockId& id);
  bool has(const BlockId& id);
  /// Removes all blocks of an owner, whose id must not be used again.
  void remove_owner(std::uint64_t owner) { remove_owners(owner, owner); }
  /// The same for all owners from the first to the last.
  void remove_owners(std::uint64_t first, std::uint64_t last);
  /// Removes the blocks of all owners from `first` on but these; returns those of them that are here.
  std::vector<std::uint64_t> keep_owners(std::uint64_t first, const std::vector<std::uint64_t>& owners);
  /// What lies on disk is gone, and so is the directory.
  void remove_spilled();

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
  bool has_disk(Keep level) const { return level != Keep::memory && directory_; }
  void make_room(std::size_t bytes);
  bool spill(const BlockId& id, const RestedRecords& records);
  void write(const BlockId& id, const RestedRecords& records);
  RestedPtr read_back(const BlockId& id, const TypeOps& type);

  const std::size_t memory_bytes_max_;
  SpillDirectory directory_;
  std::mutex mutex_;
  std::map<BlockId, Block> blocks_;
  std::set<BlockId> lost_for_good_;
  std::list<BlockId> least_recent_;  // front: used longest ago
  std::size_t memory_bytes_ = 0;
  Counters counters_;
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
  /// By operation and partition. Nothing is left.
  using States = std::map<std::pair<std::uint64_t, std::size_t>, std::shared_ptr<StatePartition>>;
  States take_all();

 private:
  std::mutex mutex_;
  States states_;
  std::atomic<bool> tracks_{false};
};

}  // namespace sluice::detail
