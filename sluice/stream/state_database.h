// What keyed state that outgrows memory asks of a database on the local disk. RocksDB is one (rocks_state.h).
//
// A database holds bytes by bytes, in the order of the keys' bytes. It need not survive a crash by itself: it lies in a
// working directory that is thrown away and made again from the last snapshot, which is durable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/runtime/filesystem.h"
#include "sluice/stream/checkpoint.h"

namespace sluice::detail {

/// What one attempt changes: in the order of keys, each once, its new value or that it is gone. Immutable once it is
/// shared.
class ChangeSet {
 public:
  explicit ChangeSet(std::size_t partition) : partition_(partition) {}

  struct Change {
    std::string_view key;
    /// nullopt: the key is gone.
    std::optional<std::string_view> value;
  };
  /// Keys ascend from call to call.
  void put(std::string_view key, std::string_view value);
  void remove(std::string_view key);

  /// Of the operator whose state it is.
  std::size_t partition() const { return partition_; }
  std::size_t size() const { return places_.size(); }
  bool empty() const { return places_.empty(); }
  std::size_t bytes() const { return bytes_.size() + places_.size() * sizeof(Place); }
  Change operator[](std::size_t index) const;
  /// The first change whose key is not before this one; size() when there is none.
  std::size_t lower_bound(std::string_view key) const;
  std::optional<Change> find(std::string_view key) const;

 private:
  static constexpr std::uint32_t gone = ~0U;
  struct Place {
    std::uint64_t at;
    std::uint32_t key_bytes;
    std::uint32_t value_bytes;  // or `gone`
  };
  std::string_view key_at(std::size_t index) const {
    return std::string_view(bytes_).substr(places_[index].at, places_[index].key_bytes);
  }
  void add(std::string_view key, std::string_view value, std::uint32_t value_bytes);

  const std::size_t partition_;
  std::string bytes_;
  std::vector<Place> places_;
};

/// Threads: all members are safe from all threads. Errors: SLU-301 for damage, SLU-401, SLU-411; they name the file
/// where it is known.
class StateDatabase {
 public:
  virtual ~StateDatabase() = default;

  /// Called with the number of a key and its value, which lives until it returns.
  using Found = std::function<void(std::size_t, std::optional<std::string_view>)>;
  /// Keys of one `get`.
  static constexpr std::size_t get_max = 128;
  /// Calls `found` for each of the keys, get_max at most, in their order. Keys ascend.
  virtual void get(std::span<const std::string_view> keys, const Found& found) = 0;

  /// Keys in order, as they were when it was made.
  class Scan {
   public:
    virtual ~Scan() = default;
    /// False when there are no more; then nothing else may be called.
    virtual bool valid() = 0;
    /// These live until `next`.
    virtual std::string_view key() = 0;
    virtual std::string_view value() = 0;
    virtual void next() = 0;
  };
  /// Keys from `from` on and before `before`.
  virtual std::unique_ptr<Scan> scan(std::string_view from, std::string_view before) = 0;

  /// After an error any part of it may have been written.
  virtual void write(const ChangeSet& changes) = 0;

  /// Makes a copy of all that is written, as files in a new directory, without copying what is on the disk already
  /// where the file system has hard links. The files are durable when it returns, the directory's own name is not.
  /// Nothing may be written meanwhile. Cost: what was written since the last one.
  virtual std::vector<SnapshotFile> snapshot(const std::string& directory) = 0;
  /// About how many keys there are.
  virtual std::uint64_t about_keys() = 0;
};

/// A database to be opened.
struct DatabasePlace {
  /// RocksDB needs those of the operating system (FileSystem::is_local).
  FileSystem& files;
  /// Where it works: a new directory. Empty: the snapshot is only looked at, and nothing may be written.
  std::string directory;
  /// The directory of a snapshot that it begins with, and what lies there; empty: it begins empty.
  std::string snapshot;
  std::vector<SnapshotFile> snapshot_files;
  /// For what it keeps in memory.
  std::size_t memory_bytes = 0;
};

/// Errors: as StateDatabase; SLU-120 where there is no such database.
using OpenDatabase = std::unique_ptr<StateDatabase> (*)(const DatabasePlace& place);

}  // namespace sluice::detail
