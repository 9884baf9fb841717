// A database of state whose disk is that of the simulation: what is said of state larger than memory, but for RocksDB
// itself, under crashes and faults of the disk.
#pragma once

#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/core/codec.h"
#include "sluice/runtime/checksum.h"
#include "sluice/runtime/kill_point.h"
#include "sluice/stream/state_database.h"

namespace sluice::testing {

/// Holds all in memory, notes each write in a file that nobody reads, and makes snapshots of one file.
class SimulatedDatabase : public sluice::detail::StateDatabase {
  using Entries = std::map<std::string, std::string, std::less<>>;
  using Listed = std::vector<std::pair<std::string, std::string>>;

 public:
  /// `at_snapshot` is called when one is made; what it waits for makes it take as long.
  SimulatedDatabase(const sluice::detail::DatabasePlace& place, std::function<void()> at_snapshot)
      : files_(place.files), at_snapshot_(std::move(at_snapshot)) {
    for (const sluice::detail::SnapshotFile& file : place.snapshot_files) {
      kill_point("recovery.mid_snapshot");
      const std::string bytes = read_file(files_, place.snapshot + "/" + file.name);
      Decoder in(bytes);
      for (auto& entry : decode<Listed>(in)) entries_.insert(std::move(entry));
      in.expect_end();
    }
    if (place.directory.empty()) return;
    files_.make_directories(place.directory);
    written_ = files_.create(place.directory + "/written");
  }

  void get(std::span<const std::string_view> keys, const Found& found) override {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      std::optional<std::string> value;
      {
        const std::lock_guard lock(mutex_);
        if (const auto place = entries_.find(keys[i]); place != entries_.end()) value = place->second;
      }
      found(i, value);
    }
  }

  std::unique_ptr<Scan> scan(std::string_view from, std::string_view before) override {
    class Copied : public Scan {
     public:
      explicit Copied(Entries entries) : entries_(std::move(entries)), at_(entries_.begin()) {}
      bool valid() override { return at_ != entries_.end(); }
      std::string_view key() override { return at_->first; }
      std::string_view value() override { return at_->second; }
      void next() override { ++at_; }

     private:
      const Entries entries_;
      Entries::const_iterator at_;
    };
    const std::lock_guard lock(mutex_);
    return std::make_unique<Copied>(Entries(entries_.lower_bound(from), entries_.lower_bound(before)));
  }

  void write(const sluice::detail::ChangeSet& changes) override {
    for (std::size_t i = 0; i < changes.size(); ++i) {
      const sluice::detail::ChangeSet::Change change = changes[i];
      if (i % 8 == 0) written_->append(change.key);  // may fail in the middle
      const std::lock_guard lock(mutex_);
      if (change.value.has_value()) {
        entries_.insert_or_assign(std::string(change.key), std::string(*change.value));
      } else {
        entries_.erase(std::string(change.key));
      }
    }
  }

  std::vector<sluice::detail::SnapshotFile> snapshot(const std::string& directory) override {
    files_.remove_all(directory);
    files_.make_directories(directory);
    at_snapshot_();
    Encoder all;
    {
      const std::lock_guard lock(mutex_);
      encode(Listed(entries_.begin(), entries_.end()), all);
    }
    const auto file = files_.create(directory + "/entries");
    file->append(all.view());
    file->sync();
    files_.sync_directory(directory);
    return {{"entries", all.size(), crc32c(all.view())}};
  }

  std::uint64_t about_keys() override {
    const std::lock_guard lock(mutex_);
    return entries_.size();
  }

 private:
  FileSystem& files_;
  const std::function<void()> at_snapshot_;
  std::unique_ptr<File> written_;
  std::mutex mutex_;
  Entries entries_;
};

}  // namespace sluice::testing
