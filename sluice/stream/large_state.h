// Keyed state that outgrows memory: in a database on the local disk, one an operator, shared by its partitions.
//
// A key of the database is the key group (2 bytes, the larger first) and the bytes of the key's codec (of a text: the
// text itself). So a partition, which is a range of groups, is a range of keys, and the number of partitions may change
// from run to run without moving anything. A value is the number of the schema that its bytes were written with, then
// the codec's bytes. (Format: docs/formats.md, "State in RocksDB".)
//
// Invariants, in place of those of keyed_state.h:
//  L1. An attempt collects what it changes in a ChangeSet and writes it when it commits; one that gives up drops it.
//      What is asked for meanwhile is looked up in the change sets first, newest first, then in the database.
//  L2. As S2: a job that asks for a batch again changes nothing and gets the same records.
//  L3. The order of entries is that of their keys in the database, whatever happened before. (In memory it is that of
//      insertion, by group; so a program that depends on the order of records notices where its state lies.)
//  L4. Between `freeze` and the end of the snapshot nothing is written to the database: change sets that are committed
//      meanwhile wait in memory. So the snapshot is that of the batch at which it was frozen, while batches go on, and
//      flushing and linking are done on the checkpoint's thread. When what waits is too much, commits wait.
//  L5. A database that failed to take a change set is not written to or read any more: it may have half of it.
//
// Nothing here knows types but the templates at the end, which are thin: what a database costs leaves room for a
// virtual call a key, and programs compile faster.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/core/evolve.h"
#include "sluice/core/keyed.h"
#include "sluice/core/stores.h"
#include "sluice/stream/checkpoint.h"
#include "sluice/stream/state_database.h"

namespace sluice::detail {

struct LargeStateOptions {
  /// Where the working directory is made; empty: in the checkpoint directory.
  std::string directory;
  std::size_t memory_bytes = 0;
  bool verify = false;
};

/// The state of one operator. Threads: `commit`, `sealed` and the database from all threads, the rest from the
/// stream's.
class LargeState : public std::enable_shared_from_this<LargeState> {
 public:
  LargeState(OpenDatabase open, LargeStateOptions options) : open_(open), options_(std::move(options)) {}
  ~LargeState();
  LargeState(const LargeState&) = delete;
  LargeState& operator=(const LargeState&) = delete;

  struct Start {
    Runtime& runtime;
    /// The checkpoint directory.
    std::string checkpoint;
    std::uint64_t epoch = 0;
    /// One an operator of the program.
    std::size_t number = 0;
    /// Nothing is written to any disk: changes stay in memory.
    bool read_only = false;
  };
  /// Begins with what the snapshot has, or with nothing. Working directories of earlier runs are removed.
  /// `schema`: how values are written from now on.
  /// Errors: those of OpenDatabase.
  void open(const Start& start, const StateSnapshot* from, const StateSchema& schema);
  /// Drops everything, the working directory too. Nothing may run any more.
  void close();

  /// Fixes what the next snapshot has. What it returns makes the snapshot in the directory of that name, on any thread;
  /// when it is thrown away without being called, there is none. The whole snapshot is durable when it returns.
  std::function<StateSnapshot()> freeze(std::uint32_t operator_index, std::string directory);

  /// nullptr when there is nothing and nothing may be written.
  StateDatabase* database() { return database_.get(); }
  /// Throws what has broken the database (L5).
  void check();
  /// Change sets of the partition that are not in the database yet, oldest first. To be asked for before the database.
  std::vector<std::shared_ptr<const ChangeSet>> sealed(std::size_t partition);
  void commit(std::shared_ptr<const ChangeSet> changes);

  /// The number that values written so begin with; a new one if need be. While state is being loaded only.
  std::uint64_t schema_number(const StateSchema& schema);
  /// That of values written now.
  std::uint64_t schema_now() const { return schema_now_; }
  /// The schemas that values may have been written with, by number.
  const std::vector<std::string>& schemas() const { return schemas_; }

 private:
  struct Frozen;
  void make_working(const Start& start);
  StateSnapshot make_snapshot(std::uint32_t operator_index, const std::string& name);
  void thaw();
  void apply_sealed(std::unique_lock<std::mutex>& lock);
  void write(const ChangeSet& changes);

  const OpenDatabase open_;
  const LargeStateOptions options_;
  Runtime* runtime_ = nullptr;
  std::string checkpoint_;
  std::string working_;
  bool read_only_ = false;
  std::unique_ptr<StateDatabase> database_;
  std::vector<std::string> schemas_;
  std::uint64_t schema_now_ = 0;

  std::mutex mutex_;  // guards what follows
  std::unique_ptr<Condition> changed_;
  std::deque<std::shared_ptr<const ChangeSet>> sealed_;
  std::size_t sealed_bytes_ = 0;
  bool frozen_ = false;
  bool applying_ = false;
  std::exception_ptr broken_;
};

/// Gives the content of a snapshot as blocks of entries, with the schema of each: for state that moves into memory.
void read_snapshot(OpenDatabase open, FileSystem& files, const std::string& checkpoint, const StateSnapshot& snapshot,
                   const StateSchema& written, const std::function<void(const StateBlock&, const StateSchema&)>& f);

/// Live keys of a range in order, over change sets and a database; newer ones hide older ones.
class LargeScan {
 public:
  LargeScan(std::vector<std::shared_ptr<const ChangeSet>> sealed, const ChangeSet* running,
            std::unique_ptr<StateDatabase::Scan> stored, std::string_view from, std::string_view before);
  /// False at the end. Key and value live until the next call.
  bool next();
  std::string_view key() const { return key_; }
  std::string_view value() const { return value_; }

 private:
  struct Changes {
    const ChangeSet* changes;
    std::size_t at;
    std::size_t end;
    bool taken = false;
  };
  const std::vector<std::shared_ptr<const ChangeSet>> sealed_;
  std::vector<Changes> changes_;  // newest first
  std::unique_ptr<StateDatabase::Scan> stored_;
  bool stored_taken_ = false;
  std::string_view key_;
  std::string_view value_;
};

/// How the keys of a group begin in a database; of groups up to `key_groups`, which is behind all of them.
std::string group_prefix(std::uint32_t group);
/// Errors: SLU-301 for a key that has no group.
std::uint32_t group_of_key(std::string_view key);

/// Keys one after the other in one piece of memory.
class KeyList {
 public:
  void add(std::string_view key) {
    bytes_.append(key);
    ends_.push_back(bytes_.size());
  }
  std::size_t size() const { return ends_.size(); }
  std::string_view operator[](std::size_t i) const {
    const std::size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(bytes_).substr(begin, ends_[i] - begin);
  }

 private:
  std::string bytes_;
  std::vector<std::size_t> ends_;
};

/// A partition's part of a LargeState. Checkpoints ask the whole, not its partitions.
class LargePartition : public StatePartition {
 public:
  LargePartition(std::shared_ptr<LargeState> whole, std::size_t partition, std::size_t partitions)
      : whole(std::move(whole)),
        number(partition),
        first_group(first_group_of(partition, partitions)),
        end_group(first_group_of(partition + 1, partitions)) {}

  const std::shared_ptr<LargeState> whole;
  const std::size_t number;
  const std::uint32_t first_group;
  const std::uint32_t end_group;
  std::int64_t version = 0;
  /// Keys for which the function was called in the batch of `version`; all when `called_all`.
  KeyList called;
  bool called_all = false;
  /// Of the attempt that runs now.
  const ChangeSet* running = nullptr;

  /// As StateDatabase::get, with these change sets before it.
  void get(const std::vector<std::shared_ptr<const ChangeSet>>& sealed, std::span<const std::string_view> keys,
           const StateDatabase::Found& found);
  /// Of groups in [begin, end).
  LargeScan scan(std::uint32_t begin, std::uint32_t end, const ChangeSet* with);
  /// Of any keys of the database, in [from, before).
  LargeScan scan_keys(std::string_view from, std::string_view before, const ChangeSet* with);

  void track() override {}
  void freeze() override {}
  bool write(std::size_t, std::vector<StateBlock>&) override { return false; }
  /// Of state that lay in memory before.
  void load(const StateBlock& block, const StateSchema& written) override;
  void loaded(std::int64_t batch) override { version = batch; }
  std::int64_t last_batch() const override { return version; }
  void mark_all() override {}
  /// Never asked for: state in a database is not kept twice.
  void apply(std::span<const StateBlock>, std::int64_t) override { SLUICE_ASSERT(false); }
};

/// What is the same for all types in an update of a LargePartition: see UpdateStateKernel, whose twin it is.
class LargeUpdate : public ZipInputs, protected Pipe {
 public:
  LargeUpdate(const OpenAt& at, std::shared_ptr<LargePartition> state, bool idle_keeps_state, bool in_order);
  ~LargeUpdate() override;
  Pipe& input(std::size_t) override { return *this; }
  void commit() override;

 protected:
  const OpenAt& at() const { return at_; }
  LargePartition& state() { return *state_; }
  bool again() const { return again_; }
  /// Before the records of a chunk, the first of which lies in this group: calls what is complete.
  void begin_chunk(std::uint32_t group);
  /// A value of the key; values are numbered from 0 since the last `forget_values`.
  void add(std::uint32_t group, std::string_view key);
  /// After the last chunk.
  void finish_all();

  /// Calls the function for a key with these values and the state that it had, if any. The new state goes to `after`;
  /// false when there is none.
  virtual bool update(std::string_view key, std::span<const std::uint32_t> values,
                      std::optional<std::string_view> before, Encoder& after) = 0;
  virtual void emit(std::string_view key, std::string_view state) = 0;
  virtual void forget_values() = 0;

 private:
  struct Entry {
    std::uint64_t head;  // group and the key's first bytes, as a number that compares as they do
    std::uint64_t at;
    std::uint32_t bytes;
    std::uint32_t value;
  };
  std::string_view key_of(const Entry& entry) const { return std::string_view(keys_).substr(entry.at, entry.bytes); }
  void call_all(std::uint32_t begin, std::uint32_t end);
  void sort_entries();
  void call(std::string_view key, std::span<const std::uint32_t> values, std::optional<std::string_view> before);
  void emit_again();

  const OpenAt at_;
  const std::shared_ptr<LargePartition> state_;
  const bool idle_keeps_state_;
  const bool again_;
  const std::vector<std::shared_ptr<const ChangeSet>> sealed_;
  bool committed_ = false;
  std::uint32_t bucket_begin_;
  std::uint32_t bucket_end_;
  // Of the running bucket.
  std::string keys_;
  std::vector<Entry> entries_;
  std::vector<std::string_view> distinct_;
  std::vector<std::uint32_t> first_value_;  // of each distinct key, in values_; and their end
  std::vector<std::uint32_t> values_;
  // Of the attempt.
  std::shared_ptr<ChangeSet> changes_;
  KeyList called_;
  Encoder after_;
};

/// Bytes of a key as they lie in a database, behind its group.
template <class K>
std::string_view key_bytes(const typename KeyTraits<K>::Kept& key) {
  if constexpr (is_plain_v<K>) {
    return {reinterpret_cast<const char*>(&key), sizeof key};
  } else {
    return key.view();
  }
}

/// The key of such bytes.
template <class K>
K key_of_bytes(std::string_view bytes) {
  if constexpr (is_text_key_v<K>) {
    return K(bytes);
  } else {
    Decoder in({bytes.data(), bytes.size()});
    K key = decode<K>(in);
    in.expect_end();
    return key;
  }
}

/// Reads states by the number of the schema that they were written with.
template <class S>
class LargeReader {
 public:
  explicit LargeReader(const LargeState& state) {
    for (const std::string& schema : state.schemas()) readers_.emplace_back(schema);
  }
  S read(std::string_view bytes) const {
    Decoder in({bytes.data(), bytes.size()});
    const std::uint64_t schema = in.varint();
    if (schema >= readers_.size()) in.fail_corrupt("a state was written with a schema that is not known");
    S state = readers_[schema](in);
    in.expect_end();
    return state;
  }

 private:
  std::vector<ValueReader<S>> readers_;
};

/// Makes (key, state) records of keys as they lie in a database.
template <class K, class S>
class LargeEmitter {
 public:
  using Out = std::pair<K, S>;
  explicit LargeEmitter(Pipe& next) : out_(next) {}
  Pipe& next() { return out_.next(); }

  /// While it lives records may be emitted; `close` hands on what is left.
  class Open {
   public:
    explicit Open(LargeEmitter& emitter) : emitter_(emitter), cursor_(emitter.out_) { emitter.open_ = this; }
    ~Open() { emitter_.open_ = nullptr; }
    Open(const Open&) = delete;
    Open& operator=(const Open&) = delete;
    void close() { flush(); }

   private:
    friend LargeEmitter;
    void flush() {
      cursor_.flush();
      emitter_.texts_.clear();
      emitter_.in_chunk_ = 0;
    }
    LargeEmitter& emitter_;
    typename ChunkBuffer<Out>::Cursor cursor_;
  };

  /// The key's bytes live until this returns only.
  void emit(std::string_view key, S state) {
    key.remove_prefix(2);  // its group
    // Views in keys live as long as their chunk.
    if constexpr (has_views_v<K>) key = texts_.copy(key);
    open_->cursor_.emplace(key_of_bytes<K>(key), std::move(state));
    if (++in_chunk_ == chunk_max) open_->flush();
  }

 private:
  static constexpr std::size_t chunk_max = 256;
  Arena texts_;
  std::size_t in_chunk_ = 0;
  ChunkBuffer<Out> out_;
  Open* open_ = nullptr;
};

/// A partition's state where a task runs, if that is where it lies; then the driver has put it there.
inline std::shared_ptr<LargePartition> large_partition(const OpenAt& at, std::uint64_t operation) {
  return std::dynamic_pointer_cast<LargePartition>(at.task.environment().states.find(operation, at.partition));
}

/// What UpdateStateKernel opens over a LargePartition.
template <class K, class V, class S, class F>
class LargeUpdateOf final : public LargeUpdate {
 public:
  /// `f` must outlive it.
  LargeUpdateOf(const OpenAt& at, std::shared_ptr<LargePartition> state, bool idle_keeps_state, bool in_order,
                const F& f, Pipe& next)
      : LargeUpdate(at, std::move(state), idle_keeps_state, in_order),
        f_(f),
        emits_(!next.ignores_records()),
        schema_(this->state().whole->schema_now()),
        reader_(*this->state().whole),
        emitter_(next) {}

 private:
  void push(const void* records, std::size_t count) override {
    if (again() || count == 0) return;
    const auto* in = static_cast<const Keyed<K, V>*>(records);
    typename LargeEmitter<K, S>::Open open(emitter_);
    begin_chunk(key_group(in[0].hash));
    for (std::size_t i = 0; i < count; ++i) {
      add(key_group(in[i].hash), key_bytes<K>(in[i].key));
      values_.emplace_back(in[i].value);
      if constexpr (has_views_v<V>) rest(values_.back(), texts_);
    }
    open.close();
  }
  void finish() override {
    typename LargeEmitter<K, S>::Open open(emitter_);
    finish_all();
    open.close();
    emitter_.next().finish();
  }
  bool update(std::string_view key, std::span<const std::uint32_t> numbers, std::optional<std::string_view> before,
              Encoder& after) override {
    std::span<const V> values;
    if (numbers.size() == 1) {
      values = {&values_[numbers[0]], 1};
    } else if (!numbers.empty()) {
      gathered_.clear();
      for (const std::uint32_t number : numbers) gathered_.emplace_back(values_[number]);
      values = {gathered_.begin(), gathered_.size()};
    }
    std::optional<S> state;
    if (before.has_value()) state.emplace(reader_.read(*before));
    try {
      state = f_(values, std::move(state));
    } catch (...) {
      rethrow_at_record(at(), calls_);
    }
    ++calls_;
    if (!state.has_value()) return false;
    after.varint(schema_);
    encode(*state, after);
    if (emits_) emitter_.emit(key, std::move(*state));
    return true;
  }
  void emit(std::string_view key, std::string_view bytes) override { emitter_.emit(key, reader_.read(bytes)); }
  void forget_values() override {
    values_.clear();
    if constexpr (has_views_v<V>) texts_.clear();
  }

  const F& f_;
  const bool emits_;
  const std::uint64_t schema_;
  const LargeReader<S> reader_;
  LargeEmitter<K, S> emitter_;
  Dense<V> values_;
  Dense<V> gathered_;
  Arena texts_;
  std::uint64_t calls_ = 0;
};

/// What SnapshotKernel opens over a LargePartition.
template <class K, class Content>
class LargeSnapshot : public Pipe {
 public:
  LargeSnapshot(std::shared_ptr<LargePartition> state, const OpenAt& at, Pipe& next)
      : state_(std::move(state)), at_(at), reader_(*state_->whole), emitter_(next) {}
  void push(const void*, std::size_t) override {}
  void finish() override {
    typename Emitter::Open open(emitter_);
    try {
      LargeScan scan = state_->scan(state_->first_group, state_->end_group, state_->running);
      for (std::uint64_t n = 1; scan.next(); ++n) {
        emitter_.emit(scan.key(), Content::take_out(reader_.read(scan.value())));
        if (n % chunk_records_max == 0) at_.task.check_cancelled();
      }
    } catch (...) {
      rethrow_at(at_.info);
    }
    open.close();
    emitter_.next().finish();
  }
  bool full() const override { return false; }
  bool ignores_records() const override { return true; }

 private:
  using Emitter = LargeEmitter<K, typename Content::Out>;
  const std::shared_ptr<LargePartition> state_;
  const OpenAt at_;
  const LargeReader<typename Content::Value> reader_;
  Emitter emitter_;
};

}  // namespace sluice::detail
