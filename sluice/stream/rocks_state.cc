// requires: rocksdb
//
// RocksDB opens, syncs and removes files by itself and has threads of its own: it must, it is what it is for. So this
// file is outside of the rule that only sluice/runtime touches disk and threads, and a stream whose runtime is not the
// system's cannot use it. What sluice itself does with the files goes through FileSystem, where that
// can do it.
//
// How it is tuned, and what for (figures: docs/guide.md, "State larger than memory"):
//  - Its own log is off. What a crash loses is in the snapshot and in the journal of batches.
//  - At most 500 files are held open, of about 64 MiB each: the usual limit of a process is 1,024.
//  - The checksum of each file is made while it is written, so that a snapshot has it without reading 20 GB.
//  - Memory: one block cache of `memory_bytes` takes it all: blocks of data, indexes and filters (both in pieces, so
//    that those of 20 GB need not lie in memory), and up to half of it memtables, which are charged to it.
//  - Point look-ups, a batch's at a time in the order of keys: MultiGet; whole-key Bloom filters of 10 bits, also in
//    memtables, because streams bring new keys, and a key that is not there should cost no read; hash indexes in
//    blocks.
//    There is no filter of prefixes: nobody looks up key groups, ranges of them are scanned.
//  - Blocks of 8 KiB, compressed with LZ4. Smaller ones make larger indexes, larger ones more to unpack for a key.
#include "sluice/stream/rocks_state.h"

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/file_checksum.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/metadata.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>
#include <rocksdb/write_buffer_manager.h>

#include <algorithm>
#include <array>
#include <utility>

#include "sluice/runtime/checksum.h"
#include "sluice/runtime/errors.h"
#include "sluice/runtime/kill_point.h"

namespace sluice::detail {
namespace {

// Bytes of one write; more would overfill a memtable before it is looked at.
constexpr std::size_t write_bytes_max = 256 << 10;

rocksdb::Slice slice(std::string_view text) { return {text.data(), text.size()}; }
std::string_view view(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

void check(const rocksdb::Status& status, const std::string& what) {
  if (status.ok()) return;
  const Code code = status.IsCorruption() ? Code::corrupt_data : Code::io_failed;
  throw Error(code, {.why = "RocksDB, " + what + ": " + status.ToString()});
}

/// For a database that is only looked at: its directory stays as it is.
class NoLog : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

rocksdb::Options make_options(const DatabasePlace& place) {
  const std::size_t memory = std::max<std::size_t>(place.memory_bytes, 8 << 20);
  const auto cache = rocksdb::NewLRUCache(memory, /*num_shard_bits=*/4, /*strict_capacity_limit=*/false,
                                          /*high_pri_pool_ratio=*/0.3);
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.block_size = 8 << 10;
  table.cache_index_and_filter_blocks = true;
  table.cache_index_and_filter_blocks_with_high_priority = true;
  table.pin_top_level_index_and_filter = true;
  table.index_type = rocksdb::BlockBasedTableOptions::kTwoLevelIndexSearch;
  table.partition_filters = true;
  table.metadata_block_size = 4 << 10;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.whole_key_filtering = true;
  table.data_block_index_type = rocksdb::BlockBasedTableOptions::kDataBlockBinaryAndHash;
  table.format_version = 5;

  rocksdb::Options options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.create_if_missing = true;
  options.compression = rocksdb::kLZ4Compression;
  options.write_buffer_size = std::clamp<std::size_t>(memory / 8, 1 << 20, 64 << 20);
  options.max_write_buffer_number = 4;
  options.write_buffer_manager = std::make_shared<rocksdb::WriteBufferManager>(memory / 2, cache);
  options.memtable_prefix_bloom_size_ratio = 0.05;
  options.memtable_whole_key_filtering = true;
  options.level_compaction_dynamic_level_bytes = true;
  options.max_bytes_for_level_base = 4 * options.write_buffer_size;
  options.target_file_size_base = 64 << 20;
  options.max_open_files = 500;
  options.file_checksum_gen_factory = rocksdb::GetFileChecksumGenCrc32cFactory();
  options.max_background_jobs = 2;
  // So that the sync at the end of a file is short.
  options.bytes_per_sync = 1 << 20;
  // What is not in a snapshot is not needed again.
  options.avoid_flush_during_shutdown = true;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.keep_log_file_num = 1;
  if (place.directory.empty()) options.info_log = std::make_shared<NoLog>();
  return options;
}

void copy_file(FileSystem& files, const std::string& from, const std::string& to) {
  const auto source = files.open(from);
  if (source == nullptr) throw Error(Code::truncated_data, {.why = from + ": no such file"});
  const auto copy = files.create(to);
  std::string buffer(1 << 20, '\0');
  std::uint64_t at = 0;
  while (const std::size_t got = source->read_at(at, buffer)) {
    copy->append({buffer.data(), got});
    at += got;
  }
  copy->sync();
}

bool is_table(std::string_view name) { return name.ends_with(".sst"); }

// Table files never change, so they are linked where that is possible.
void take_table(FileSystem& files, const std::string& from, const std::string& to) {
  const rocksdb::Status linked = rocksdb::Env::Default()->LinkFile(from, to);
  if (linked.ok()) return;
  if (!linked.IsNotSupported()) check(linked, to);
  copy_file(files, from, to);  // to another file system
}

class RocksState final : public StateDatabase {
 public:
  RocksState(std::unique_ptr<rocksdb::DB> db, FileSystem& files, std::string directory)
      : db_(std::move(db)), files_(files), directory_(std::move(directory)) {}

  void get(std::span<const std::string_view> keys, const Found& found) override {
    SLUICE_ASSERT(keys.size() <= get_max);
    std::array<rocksdb::Slice, get_max> asked;
    std::array<rocksdb::PinnableSlice, get_max> values;
    std::array<rocksdb::Status, get_max> statuses;
    for (std::size_t i = 0; i < keys.size(); ++i) asked[i] = slice(keys[i]);
    db_->MultiGet(rocksdb::ReadOptions(), db_->DefaultColumnFamily(), keys.size(), asked.data(), values.data(),
                  statuses.data(), /*sorted_input=*/true);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (statuses[i].IsNotFound()) {
        found(i, std::nullopt);
      } else {
        check(statuses[i], directory_);
        found(i, view(values[i]));
      }
    }
  }

  std::unique_ptr<Scan> scan(std::string_view from, std::string_view before) override {
    class Ascending : public Scan {
     public:
      Ascending(rocksdb::DB& db, std::string_view from, std::string_view before, const std::string& directory)
          : before_(before), before_slice_(before_), directory_(directory) {
        rocksdb::ReadOptions options;
        options.iterate_upper_bound = &before_slice_;
        // A scan must not drive out what look-ups need.
        options.fill_cache = false;
        options.readahead_size = 1 << 20;
        iterator_.reset(db.NewIterator(options));
        iterator_->Seek(slice(from));
      }
      bool valid() override {
        if (iterator_->Valid()) return true;
        check(iterator_->status(), directory_);
        return false;
      }
      std::string_view key() override { return view(iterator_->key()); }
      std::string_view value() override { return view(iterator_->value()); }
      void next() override { iterator_->Next(); }

     private:
      const std::string before_;
      const rocksdb::Slice before_slice_;
      const std::string& directory_;
      std::unique_ptr<rocksdb::Iterator> iterator_;
    };
    return std::make_unique<Ascending>(*db_, from, before, directory_);
  }

  void write(const ChangeSet& changes) override {
    rocksdb::WriteOptions options;
    options.disableWAL = true;
    rocksdb::WriteBatch batch;
    const auto hand_over = [&] {
      check(db_->Write(options, &batch), directory_);
      batch.Clear();
    };
    for (std::size_t i = 0; i < changes.size(); ++i) {
      const ChangeSet::Change change = changes[i];
      check(change.value.has_value() ? batch.Put(slice(change.key), slice(*change.value))
                                     : batch.Delete(slice(change.key)),
            directory_);
      if (batch.GetDataSize() >= write_bytes_max) hand_over();
    }
    if (batch.Count() > 0) hand_over();
  }

  // As RocksDB's Checkpoint, which does not tell checksums: flushes memtables, links table files, writes the others
  // anew, and syncs those and the directory (table files were synced when they were finished).
  std::vector<SnapshotFile> snapshot(const std::string& directory) override {
    files_.remove_all(directory);  // of a checkpoint that failed
    files_.make_directories(directory);
    check(db_->DisableFileDeletions(), directory_);
    struct Deletions {
      rocksdb::DB& db;
      ~Deletions() { db.EnableFileDeletions(/*force=*/false).PermitUncheckedError(); }
    } const deletions{*db_};
    rocksdb::LiveFilesStorageInfoOptions options;
    options.include_checksum_info = true;
    options.wal_size_for_flush = 0;  // flushes
    std::vector<rocksdb::LiveFileStorageInfo> live;
    check(db_->GetLiveFilesStorageInfo(options, &live), directory_);
    std::vector<SnapshotFile> written;
    for (const rocksdb::LiveFileStorageInfo& file : live) {
      // What it was opened with is said anew, and its log is off.
      if (file.file_type == rocksdb::kOptionsFile || file.file_type == rocksdb::kWalFile) continue;
      written.push_back(put(file, directory));
    }
    files_.sync_directory(directory);
    return written;
  }

  std::uint64_t about_keys() override {
    std::uint64_t keys = 0;
    return db_->GetIntProperty(rocksdb::DB::Properties::kEstimateNumKeys, &keys) ? keys : 0;
  }

 private:
  SnapshotFile put(const rocksdb::LiveFileStorageInfo& file, const std::string& directory) {
    const std::string from = file.directory + "/" + file.relative_filename;
    const std::string to = directory + "/" + file.relative_filename;
    if (is_table(file.relative_filename)) {
      if (file.file_checksum.size() != sizeof(std::uint32_t)) {
        throw Error(Code::corrupt_data, {.why = from + ": RocksDB does not know its checksum"});
      }
      std::uint32_t checksum = 0;
      for (const char byte : file.file_checksum) checksum = checksum << 8 | static_cast<unsigned char>(byte);
      take_table(files_, from, to);
      return {file.relative_filename, file.size, checksum};
    }
    std::string content = file.replacement_contents;
    if (content.empty()) content = read_file(files_, from).substr(0, file.size);
    const auto made = files_.create(to);
    made->append(content);
    made->sync();
    return {file.relative_filename, content.size(), crc32c(content)};
  }

  const std::unique_ptr<rocksdb::DB> db_;
  FileSystem& files_;
  const std::string directory_;
};

// RocksDB appends to what is no table.
void take_snapshot(const DatabasePlace& place) {
  for (const SnapshotFile& file : place.snapshot_files) {
    const std::string from = place.snapshot + "/" + file.name;
    const std::string to = place.directory + "/" + file.name;
    kill_point("recovery.mid_snapshot");
    is_table(file.name) ? take_table(place.files, from, to) : copy_file(place.files, from, to);
  }
}

}  // namespace

std::unique_ptr<StateDatabase> open_rocks_state(const DatabasePlace& place) {
  if (!place.files.is_local()) {
    throw Error(Code::no_state_backend,
                {.why = "RocksDB needs files of the operating system, which this stream's runtime does not have"});
  }
  rocksdb::DB* opened = nullptr;
  const rocksdb::Options options = make_options(place);
  const std::string& directory = place.directory.empty() ? place.snapshot : place.directory;
  if (place.directory.empty()) {
    check(rocksdb::DB::OpenForReadOnly(options, directory, &opened), directory);
  } else {
    place.files.make_directories(place.directory);
    take_snapshot(place);
    check(rocksdb::DB::Open(options, directory, &opened), directory);
  }
  return std::make_unique<RocksState>(std::unique_ptr<rocksdb::DB>(opened), place.files, directory);
}

}  // namespace sluice::detail
