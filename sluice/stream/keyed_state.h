// Keyed state that lives from batch to batch: one hash table a key group, and what checkpoints need of it.
//
// The number of key groups is fixed, so state can be saved and moved by them, and a group's table is small enough to
// stay in the second-level cache while its part of a batch is worked on (measured: 1.5 times the updates a second of
// one large table with 0.9 M keys).
//
// Invariants:
//  S1. A partition's state is changed by one attempt at a time, in place, with an undo log; an attempt that does not
//      commit leaves it as it was.
//  S2. `version` is the last batch time that committed. A job that asks for that batch again (an output tried again)
//      changes nothing and gets the same records.
//  S3. The order of entries (by group, then by insertion) follows from the sequence of batches alone, also over a
//      restart from a checkpoint. So a removed key that comes back comes last, and groups are compacted at points that
//      depend on their content alone.
//  S4. An attempt calls `enter` before it changes a group: what is frozen there is written first.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/core/evolve.h"
#include "sluice/core/keyed.h"
#include "sluice/core/stores.h"
#include "sluice/stream/large_state.h"

namespace sluice::detail {

/// An entry of a group, by its place.
struct EntryAt {
  std::uint32_t group;
  std::uint32_t index;
};

/// How a value lies in a block; those that are not plain have their length before them.
template <class V>
void save_value(const V& value, Encoder& out) {
  if constexpr (is_plain_v<V>) {
    out.bytes(&value, sizeof value);
  } else {
    Encoder sized;
    encode(value, sized);
    out.text(sized.view());
  }
}

/// The same back.
template <class V>
V load_value(Decoder& in) {
  if constexpr (is_plain_v<V>) {
    return decode<V>(in);
  } else {
    Decoder value(in.text());
    V loaded = decode<V>(value);
    value.expect_end();
    return loaded;
  }
}

/// The state of one partition. `Content` says what an entry is:
///     using Entry = ...;                                 // default-made for a new key; has `bool changed = false`
///     using Value = ...;                                 // what is saved of it
///     static bool live(const Entry&);                    // has state; false for removed entries
///     static Value value(const Entry&);                  // or a reference to it
///     static Entry entry(Value);                         // a live one
///     static constexpr bool keeps_places;                // others hold places of entries from batch to batch
///     using Out = ...;                                   // what the operator gives out for a key
///     static const Out& out(const Entry&);
///     static Out take_out(Value);
template <class K, class Content>
class KeyedState : public StatePartition {
 public:
  using Entry = typename Content::Entry;
  using Value = typename Content::Value;
  using Traits = KeyTraits<K>;
  using Table = KeyTable<K, Entry>;

  /// Threads: as StatePartition.
  struct Group {
    /// The attempt that last entered, and the table's size then: entries behind it are new.
    std::uint64_t entered_by = 0;
    std::uint32_t size_before = 0;
    bool frozen = false;
    Table table;
    /// Entries that differ from what the last checkpoint has; each once (Entry::changed).
    Dense<std::uint32_t> changed;
    /// Keys that the last checkpoint may have and that are gone, encoded.
    Encoder gone;
    std::uint32_t gone_count = 0;
  };

  KeyedState(std::size_t partition, std::size_t partitions)
      : first_(first_group_of(partition, partitions)),
        groups_(first_group_of(partition + 1, partitions) - first_),
        used_((groups_.size() + 63) / 64) {}

  std::int64_t version = 0;

  // ---- for attempts

  std::uint32_t groups() const { return static_cast<std::uint32_t>(groups_.size()); }
  Group& group(std::uint32_t g) { return groups_[g]; }
  const Group& group(std::uint32_t g) const { return groups_[g]; }
  Entry& entry(EntryAt at) { return groups_[at.group].table[at.index].value; }
  std::uint32_t first_group() const { return first_; }
  /// Whether the group of a hash is one of this partition.
  bool has_group(std::uint64_t hash) const { return key_group(hash) - first_ < groups_.size(); }
  /// Index of the group of a hash, which must be of this partition.
  std::uint32_t group_of(std::uint64_t hash) const { return key_group(hash) - first_; }
  /// Keys in all groups.
  std::size_t size() const { return size_; }

  /// A number that no other attempt has.
  std::uint64_t begin_attempt() { return ++attempts_; }
  /// The group, ready to be changed by `attempt`; calls entered(g) the first time.
  template <class Entered>
  Group& enter(std::uint32_t g, std::uint64_t attempt, const Entered& entered) {
    Group& group = groups_[g];
    if (group.entered_by != attempt) [[unlikely]] {
      if (group.frozen) write_group(g, written_);
      if (!Content::keeps_places && worth_compacting(group.table.holes(), group.table.size())) compact(group);
      group.entered_by = attempt;
      group.size_before = static_cast<std::uint32_t>(group.table.size());
      used_[g / 64] |= std::uint64_t{1} << (g % 64);
      entered(g);
    }
    return group;
  }
  /// The key's entry in an entered group.
  std::uint32_t find_or_insert(Group& group, std::uint64_t hash, const typename Traits::Kept& key) {
    const auto [index, made] = group.table.find_or_insert(hash, key, [] { return Entry{}; });
    size_ += made ? 1 : 0;
    return index;
  }
  /// The entry differs from what the last checkpoint has.
  void mark(Group& group, std::uint32_t index) {
    Entry& entry = group.table[index].value;
    if (!tracks_ || entry.changed) return;
    entry.changed = true;
    group.changed.emplace_back(index);
  }
  /// Takes a key out whose entry is not live any more.
  void remove(EntryAt at) {
    Group& group = groups_[at.group];
    if (tracks_) {
      save_key(group.table[at.index].key, group.gone);
      ++group.gone_count;
    }
    group.table.remove(at.index);
    --size_;
    ++holes_;
  }
  /// Takes out the entries that an attempt which gives up has made in a group it entered.
  void remove_new(Group& group) {
    while (group.table.size() > group.size_before) {
      group.table.remove_last();
      --size_;
    }
    std::uint32_t kept = 0;
    for (const std::uint32_t index : group.changed) {
      if (index < group.size_before) group.changed[kept++] = index;
    }
    while (group.changed.size() > kept) group.changed.pop_back();
  }

  /// Calls f(i) for i in 0..count-1, each some time after what the hash `hash_of(i)` leads to has been prefetched.
  template <class HashOf, class F>
  void for_each_prefetched(std::size_t count, const HashOf& hash_of, const F& f) const {
    // No lambdas or functions around what prefetches: see KeyTable::prefetch_slot.
    for (std::size_t i = 0; i < std::min(count, 2 * prefetch_ahead); ++i) {
      groups_[group_of(hash_of(i))].table.prefetch_slot(hash_of(i));
    }
    for (std::size_t i = 0; i < std::min(count, prefetch_ahead); ++i) {
      groups_[group_of(hash_of(i))].table.prefetch_entry(hash_of(i));
    }
    for (std::size_t i = 0; i < count; ++i) {
      if (i + 2 * prefetch_ahead < count) {
        const std::uint64_t hash = hash_of(i + 2 * prefetch_ahead);
        groups_[group_of(hash)].table.prefetch_slot(hash);
      }
      if (i + prefetch_ahead < count) {
        const std::uint64_t hash = hash_of(i + prefetch_ahead);
        groups_[group_of(hash)].table.prefetch_entry(hash);
      }
      f(i);
    }
  }
  /// Calls f(g) for each group in [begin, end) that has ever had a key.
  template <class F>
  void for_each_used(std::uint32_t begin, std::uint32_t end, const F& f) const {
    for (std::uint32_t word = begin / 64; word * 64 < end; ++word) {
      for (std::uint64_t bits = used_[word]; bits != 0; bits &= bits - 1) {
        const std::uint32_t g = word * 64 + static_cast<std::uint32_t>(std::countr_zero(bits));
        if (g >= begin && g < end) f(g);
      }
    }
  }

  // ---- for checkpoints

  void track() override { tracks_ = true; }

  void freeze() override {
    for_each_used(0, groups(), [this](std::uint32_t g) {
      Group& group = groups_[g];
      SLUICE_ASSERT(!group.frozen);
      group.frozen = !group.changed.empty() || group.gone_count > 0;
    });
    next_to_write_ = 0;
  }

  bool write(std::size_t bytes_max, std::vector<StateBlock>& out) override {
    std::size_t bytes = 0;
    const auto hand_over = [&] {
      for (StateBlock& block : written_) {
        bytes += block.bytes.size();
        out.push_back(std::move(block));
      }
      written_.clear();
    };
    hand_over();
    for (; next_to_write_ < groups() && bytes < bytes_max; ++next_to_write_) {
      if (groups_[next_to_write_].frozen) write_group(next_to_write_, written_);
      hand_over();
    }
    return next_to_write_ < groups();
  }

  void load(const StateBlock& block, const StateSchema& written) override { load_entries(block, Reader(written), 0); }

  void loaded(std::int64_t batch) override { version = batch; }
  std::int64_t last_batch() const override { return version; }
  void mark_all() override {
    for_each_used(0, groups(), [this](std::uint32_t g) {
      for (std::uint32_t index = 0; index < groups_[g].table.size(); ++index) {
        if (Content::live(groups_[g].table[index].value)) mark(groups_[g], index);
      }
    });
  }

  void apply(std::span<const StateBlock> blocks, std::int64_t batch) override {
    const std::uint64_t attempt = begin_attempt();
    const Reader read(schema_);
    for (const StateBlock& block : blocks) load_entries(block, read, attempt);
    version = batch;
  }

  /// The seed of the key hash, and how this state is written; set before `load` and `apply`.
  void set_up(std::uint64_t seed, StateSchema schema) {
    seed_ = seed;
    schema_ = std::move(schema);
  }

  /// How this state is written.
  static StateSchema schema(std::string_view kind, Duration slide) {
    StateSchema schema;
    schema.kind = kind;
    schema.key = schema_of<K>();
    schema.value = schema_of<Value>();
    if constexpr (is_plain_v<K>) schema.key_bytes = sizeof(K);
    if constexpr (is_plain_v<Value>) schema.value_bytes = sizeof(Value);
    schema.slide = slide.count();
    return schema;
  }

 protected:
  bool tracks() const { return tracks_; }
  std::uint64_t seed() const { return seed_; }
  const StateSchema& own_schema() const { return schema_; }

  static void save_key(const typename Traits::Kept& key, Encoder& out) {
    if constexpr (is_plain_v<K>) {
      out.bytes(&key, sizeof key);
    } else {
      out.text(key.view());  // the bytes of the codec; of a text, the text itself
    }
  }
  static K load_key(Decoder& in) {
    if constexpr (is_plain_v<K>) {
      return decode<K>(in);
    } else {
      return key_of_bytes<K>(in.text());
    }
  }
  template <class V>
  static V read_sized(Decoder& in, const ValueReader<V>& read) {
    const std::string_view bytes = in.text();
    Decoder value(bytes);
    V decoded = read(value);
    value.expect_end();
    return decoded;
  }

  /// How the values of blocks are read that are written alike.
  struct Reader {
    explicit Reader(const StateSchema& written) : value(written.value), value_bytes(written.value_bytes) {}
    ValueReader<Value> value;
    /// 0: each has its length before it.
    std::uint32_t value_bytes;
  };

  /// `attempt`: 0 for what a checkpoint has anyway; else the entries count as changed in that attempt.
  void load_entries(const StateBlock& block, const Reader& read, std::uint64_t attempt) {
    SLUICE_ASSERT(block.what == StateBlock::What::entries);
    if (block.group < first_ || block.group >= first_ + groups()) return;
    const std::uint32_t g = block.group - first_;
    Group& group = enter(g, attempt, [](std::uint32_t) {});
    used_[g / 64] |= std::uint64_t{1} << (g % 64);
    const bool marks = tracks_ && attempt != 0;
    Decoder in(block.bytes);
    typename Traits::Scratch scratch;
    for (std::uint64_t left = in.varint(); left > 0; --left) {
      const K key = load_key(in);
      const auto& kept = Traits::probe(key, scratch);
      const std::uint32_t index = group.table.find(own_hash(in, g, kept), kept);
      if (index == Table::none) continue;  // came and went between two checkpoints
      group.table[index].value = Entry{};
      if (marks) {
        save_key(group.table[index].key, group.gone);
        ++group.gone_count;
      }
      group.table.remove(index);
      --size_;
      ++holes_;
    }
    const auto put = [&](const typename Traits::Kept& key, Value value) {
      const std::uint32_t index = find_or_insert(group, own_hash(in, g, key), key);
      Entry& entry = group.table[index].value;
      const bool is_marked = entry.changed;
      entry = Content::entry(std::move(value));
      entry.changed = is_marked;
      if (marks) mark(group, index);
    };
    if constexpr (is_plain_v<K>) {
      if (read.value_bytes > 0) {
        const std::size_t entry_bytes = sizeof(K) + read.value_bytes;
        const std::size_t count = in.count(entry_bytes);
        const std::string_view entries = in.bytes(count * entry_bytes);
        const auto entry_at = [=](std::size_t i) { return Decoder(entries.substr(i * entry_bytes, entry_bytes)); };
        const auto hash_of = [&](std::size_t i) {
          Decoder entry = entry_at(i);
          return Traits::hash(load_key(entry), seed_);
        };
        group.table.for_each_prefetched(count, hash_of, [&](std::size_t i) {
          Decoder entry = entry_at(i);
          const K key = load_key(entry);
          put(key, read.value(entry));
          entry.expect_end();
        });
        return in.expect_end();
      }
    }
    for (std::uint64_t left = in.varint(); left > 0; --left) {
      const K key = load_key(in);
      put(Traits::probe(key, scratch), read.value_bytes > 0 ? read.value(in) : read_sized(in, read.value));
    }
    in.expect_end();
  }

  static bool worth_compacting(std::size_t holes, std::size_t places) { return holes >= 16 && holes * 2 >= places; }
  /// Drops the places of removed entries; where the others have gone: by old index, Table::none for removed ones.
  std::vector<std::uint32_t> compact(Group& group) {
    holes_ -= group.table.holes();
    std::vector<std::uint32_t> place(group.table.size(), Table::none);
    group.table.compact([&](std::uint32_t from, std::uint32_t to) { place[from] = to; });
    std::uint32_t kept = 0;
    for (const std::uint32_t index : group.changed) {
      if (place[index] != Table::none) group.changed[kept++] = place[index];
    }
    while (group.changed.size() > kept) group.changed.pop_back();
    return place;
  }
  /// Of all groups.
  std::size_t holes() const { return holes_; }
  void write_if_frozen(std::uint32_t g) {
    if (groups_[g].frozen) write_group(g, written_);
  }

  std::vector<StateBlock> written_;  // before their turn (S4)

 private:
  void write_group(std::uint32_t g, std::vector<StateBlock>& out) {
    Group& group = groups_[g];
    order_changed(group);
    const std::size_t count = group.changed.size();
    Encoder all;
    if constexpr (is_plain_v<K> && is_plain_v<Value>) {
      all.reserve(20 + group.gone.size() + count * (sizeof(K) + sizeof(Value)));
    }
    all.varint(group.gone_count);
    all.bytes(group.gone.view());
    all.varint(count);
    for (const std::uint32_t index : group.changed) {
      auto& entry = group.table[index];
      entry.value.changed = false;
      save_key(entry.key, all);
      save_value(Content::value(entry.value), all);
    }
    out.push_back({StateBlock::What::entries, first_ + g, 0, all.take()});
    group.changed.clear();
    group.gone.clear();
    group.gone_count = 0;
    group.frozen = false;
  }

  // What has changed and is live, in the order of the table, so that keys that are new come in their order when it is
  // loaded (S3).
  static void order_changed(Group& group) {
    Dense<std::uint32_t>& changed = group.changed;
    std::uint32_t kept = 0;
    const auto keep = [&](std::uint32_t index) {
      Entry& entry = group.table[index].value;
      if (Content::live(entry)) {
        SLUICE_ASSERT(kept < changed.size());
        changed[kept++] = index;
      } else {
        entry.changed = false;
      }
    };
    // When many have changed, to look at all of them is several times as fast as sorting.
    if (changed.size() * 8 > group.table.size()) {
      for (std::uint32_t index = 0; index < group.table.size(); ++index) {
        if (index + prefetch_ahead < group.table.size()) group.table.prefetch(index + prefetch_ahead);
        if (group.table[index].value.changed) keep(index);
      }
    } else {
      std::sort(changed.begin(), changed.end());
      for (std::size_t i = 0; i < changed.size(); ++i) keep(changed[i]);
    }
    while (changed.size() > kept) changed.pop_back();
  }

  std::uint64_t own_hash(const Decoder& in, std::uint32_t g, const typename Traits::Kept& key) const {
    const std::uint64_t hash = Traits::hash(key, seed_);
    if (group_of(hash) != g) in.fail_corrupt("a key lies in a group that is not its own");
    return hash;
  }

  const std::uint32_t first_;
  std::vector<Group> groups_;
  std::vector<std::uint64_t> used_;
  std::size_t size_ = 0;
  std::size_t holes_ = 0;
  std::uint64_t attempts_ = 0;
  std::uint32_t next_to_write_ = 0;
  std::uint64_t seed_ = 0;
  StateSchema schema_;
  bool tracks_ = false;
};

/// Finds a partition's state where a task runs.
template <class State>
struct StateOf {
  std::uint64_t operation = 0;
  std::uint64_t partitions = 0;
  StateSchema schema{};

  std::shared_ptr<State> at(const OpenAt& at) const {
    TaskEnvironment& environment = at.task.environment();
    return std::static_pointer_cast<State>(
        environment.states.get(operation, at.partition, [&] { return make(at.partition, environment.hash_seed); }));
  }
  std::shared_ptr<State> make(std::size_t partition, std::uint64_t seed) const {
    auto state = std::make_shared<State>(partition, partitions);
    state->set_up(seed, schema);
    return state;
  }
};

template <class State>
class StateMakerOf : public StateMaker {
 public:
  explicit StateMakerOf(StateOf<State> state) : state_(std::move(state)) {}
  std::uint64_t operation() const override { return state_.operation; }
  std::shared_ptr<StatePartition> make(std::size_t partition, std::uint64_t hash_seed) const override {
    return state_.make(partition, hash_seed);
  }

 private:
  StateOf<State> state_;
};

/// Emits all live entries of a state at the end of its update; the update's own records are left out.
template <class K, class Content, class State>
class SnapshotKernel : public Kernel {
 public:
  explicit SnapshotKernel(StateOf<State> state) : state_(std::move(state)) {}
  std::unique_ptr<Pipe> open(const OpenAt& at, Pipe& next) const override {
    if (auto large = large_partition(at, state_.operation)) {
      return std::make_unique<LargeSnapshot<K, Content>>(std::move(large), at, next);
    }
    return std::make_unique<Snapshot>(state_, at, next);
  }

 private:
  class Snapshot : public Pipe {
   public:
    Snapshot(const StateOf<State>& of, const OpenAt& at, Pipe& next) : of_(of), at_(at), next_(next) {}
    void push(const void*, std::size_t) override {}
    void finish() override {
      const auto state = of_.at(at_);
      using Out = std::pair<K, typename Content::Out>;
      ChunkBuffer<Out> buffer(next_);
      typename ChunkBuffer<Out>::Cursor cursor(buffer);
      state->for_each_used(0, state->groups(), [&](std::uint32_t g) {
        for (const auto& entry : state->group(g).table) {
          if (Content::live(entry.value)) cursor.emplace(KeyTraits<K>::leave(entry.key), Content::out(entry.value));
        }
        at_.task.check_cancelled();
      });
      cursor.flush();
      next_.finish();
    }
    // The update itself must see all records, whoever reads the snapshot.
    bool full() const override { return false; }
    bool ignores_records() const override { return true; }

   private:
    const StateOf<State>& of_;
    const OpenAt at_;
    Pipe& next_;
  };
  StateOf<State> state_;
};

}  // namespace sluice::detail
