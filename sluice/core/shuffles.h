// Kernels of the wide operators.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "sluice/core/stores.h"
#include "sluice/core/table.h"
#include "sluice/core/task.h"

namespace sluice::detail {

/// Emits the (key, value) pairs of a range of table entries.
template <class Out, class Entry, class Leave>
void push_entries(const OpenAt& at, Entry* begin, Entry* end, Pipe& out, Leave&& leave) {
  ChunkBuffer<Out> buffer(out);
  typename ChunkBuffer<Out>::Cursor cursor(buffer);
  for (Entry* entry = begin; entry != end; ++entry) leave(*entry, cursor);
  cursor.flush();
  at.task.check_cancelled();
}

/// Combines values by key on both sides of a shuffle: reduce_by_key, group_by_key, combine_by_key.
///
/// `Combine` is made from user functions and has
///   C create(const V&) / void merge_value(C&, const V&) / void merge(C&, const C&)
/// and, where resting all of C after each record would cost too much, static rest_added(C&, Arena&).
/// Results come in the order in which keys first appear, map partition by map partition.
template <class K, class V, class C, class Combine>
class CombineKernel : public ShuffleKernel {
  using Table = KeyTable<K, C>;
  using Traits = KeyTraits<K>;
  using Entry = typename Table::Entry;

  struct TableBucket : Bucket {
    Table table;
    std::size_t bytes() const override { return table.bytes(); }
  };

 public:
  explicit CombineKernel(Fn<Combine> combine) : combine_(std::move(combine)) {}

  std::unique_ptr<ShuffleWriter> open_writer(const OpenAt& at, std::size_t targets) const override {
    return std::make_unique<Writer>(combine_.f, at, targets);
  }

  void merge(const OpenAt& at, std::span<const BucketPtr> buckets, Pipe& out) const override {
    const Table* only = nullptr;
    std::size_t full = 0;
    std::size_t entries = 0;
    for (const BucketPtr& bucket : buckets) {
      if (bucket == nullptr) continue;
      only = &static_cast<const TableBucket&>(*bucket).table;
      entries += only->size();
      ++full;
    }
    if (full == 0) return;
    if (full == 1) {
      emit(at, *only, out);
      return;
    }
    Table merged;
    merged.reserve(entries);
    for (const BucketPtr& bucket : buckets) {
      if (bucket == nullptr) continue;
      const Table& table = static_cast<const TableBucket&>(*bucket).table;
      for (const Entry* block = table.begin(); block < table.end(); block += probe_block) {
        const Entry* end = block + std::min<std::ptrdiff_t>(probe_block, table.end() - block);
        for (const Entry* entry = block; entry != end; ++entry) merged.prefetch_slot(entry->hash);
        for (const Entry* entry = block; entry != end; ++entry) merged.prefetch_entry(entry->hash);
        for (const Entry* entry = block; entry != end; ++entry) {
          const auto [index, made] = merged.find_or_insert(entry->hash, entry->key, [&] { return entry->value; });
          if (!made) combine_.f.merge(merged[index].value, entry->value);  // views lie in the buckets
        }
      }
    }
    emit(at, merged, out);
  }

  void encode_bucket(const Bucket& bucket, Encoder& out) const override {
    const Table& table = static_cast<const TableBucket&>(bucket).table;
    out.u64(table.size());
    for (const Entry& entry : table) {
      out.u64(entry.hash);
      encode(Traits::leave(entry.key), out);
      encode(entry.value, out);
    }
  }
  BucketPtr decode_bucket(Decoder& in) const override {
    auto bucket = std::make_shared<TableBucket>();
    typename Traits::Scratch scratch;
    const std::uint64_t count = in.u64();
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t hash = in.u64();
      const K key = decode<K>(in);
      C value = decode<C>(in);
      if constexpr (has_views_v<C>) rest(value, bucket->table.arena());
      bucket->table.find_or_insert(hash, Traits::probe(key, scratch), [&] { return std::move(value); });
    }
    return bucket;
  }

 private:
  static void emit(const OpenAt& at, const Table& table, Pipe& out) {
    push_entries<std::pair<K, C>>(at, table.begin(), table.end(), out, [](const Entry& entry, auto& cursor) {
      cursor.emplace(Traits::leave(entry.key), entry.value);
    });
  }

  class Writer : public ShuffleWriter {
   public:
    Writer(const Combine& combine, const OpenAt& at, std::size_t targets)
        : combine_(combine), at_(at), seed_(at.task.environment().hash_seed), tables_(targets) {}

    void push(const void* records, std::size_t count) override {
      const auto* in = static_cast<const std::pair<K, V>*>(records);
      std::size_t i = 0;
      try {
        for (; i < count; i += probe_block) push_block(in + i, std::min(probe_block, count - i));
      } catch (...) {
        rethrow_at_record(at_, done_ + i);
      }
      done_ += count;
    }
    void finish() override {}
    std::vector<BucketPtr> take_buckets() override {
      std::vector<BucketPtr> buckets(tables_.size());
      for (std::size_t t = 0; t < tables_.size(); ++t) {
        if (tables_[t].size() == 0) continue;
        auto bucket = std::make_shared<TableBucket>();
        bucket->table = std::move(tables_[t]);
        buckets[t] = std::move(bucket);
      }
      return buckets;
    }

   private:
    // All hashes first, then slots and entries are prefetched, then looked up: the cache misses overlap.
    void push_block(const std::pair<K, V>* in, std::size_t count) {
      if constexpr (std::is_same_v<typename Traits::Kept, Text> && !is_text_key_v<K>) {
        // Keys kept as codec bytes share one scratch buffer.
        for (std::size_t i = 0; i < count; ++i) {
          const Text key = Traits::probe(in[i].first, scratch_);
          const std::uint64_t hash = Traits::hash(key, seed_);
          add(tables_[partition_of_hash(hash, tables_.size())], hash, key, in[i].second);
        }
      } else {
        std::array<std::uint64_t, probe_block> hashes;
        std::array<Table*, probe_block> tables;
        std::array<typename Traits::Kept, probe_block> keys;
        for (std::size_t i = 0; i < count; ++i) {
          keys[i] = Traits::probe(in[i].first, scratch_);
          hashes[i] = Traits::hash(keys[i], seed_);
          tables[i] = &tables_[partition_of_hash(hashes[i], tables_.size())];
          tables[i]->prefetch_slot(hashes[i]);
        }
        for (std::size_t i = 0; i < count; ++i) tables[i]->prefetch_entry(hashes[i]);
        for (std::size_t i = 0; i < count; ++i) add(*tables[i], hashes[i], keys[i], in[i].second);
      }
    }
    void add(Table& table, std::uint64_t hash, const typename Traits::Kept& key, const V& value) {
      const auto [index, made] = table.find_or_insert(hash, key, [&] { return combine_.create(value); });
      if (!made) combine_.merge_value(table[index].value, value);
      if constexpr (has_views_v<C>) {
        if constexpr (requires { Combine::rest_added(table[index].value, table.arena()); }) {
          Combine::rest_added(table[index].value, table.arena());
        } else {
          rest(table[index].value, table.arena());
        }
      }
    }

    const Combine& combine_;
    const OpenAt at_;
    const std::uint64_t seed_;
    std::uint64_t done_ = 0;
    [[no_unique_address]] typename Traits::Scratch scratch_;
    std::vector<Table> tables_;
  };

  Fn<Combine> combine_;
};

/// The same within a partition, for pairs that lie together by key already.
template <class K, class V, class Combine>
class CombineInPlaceKernel : public Kernel {
  using Wide = CombineKernel<K, V, V, Combine>;

 public:
  explicit CombineInPlaceKernel(Fn<Combine> combine) : wide_(std::move(combine)) {}
  std::unique_ptr<Pipe> open(const OpenAt& at, Pipe& next) const override {
    return std::make_unique<Combiner>(wide_, at, next);
  }

 private:
  class Combiner : public Pipe {
   public:
    Combiner(const Wide& wide, const OpenAt& at, Pipe& next)
        : wide_(wide), at_(at), next_(next), writer_(wide.open_writer(at, 1)) {}
    void push(const void* records, std::size_t count) override { writer_->push(records, count); }
    void finish() override {
      writer_->finish();
      const std::vector<BucketPtr> buckets = writer_->take_buckets();
      wide_.merge(at_, buckets, next_);
      next_.finish();
    }

   private:
    const Wide& wide_;
    const OpenAt at_;
    Pipe& next_;
    std::unique_ptr<ShuffleWriter> writer_;
  };
  Wide wide_;
};

/// reduce_by_key.
template <class V, class F>
struct ReduceCombine {
  F f;
  auto functions() const { return std::tuple(&f); }
  V create(const V& value) const { return value; }
  void merge_value(V& sum, const V& value) const { sum = f(sum, value); }
  void merge(V& sum, const V& other) const { sum = f(sum, other); }
};

/// group_by_key.
template <class V>
struct GroupCombine {
  std::vector<V> create(const V& value) const { return {value}; }
  void merge_value(std::vector<V>& all, const V& value) const { all.push_back(value); }
  static void rest_added(std::vector<V>& all, Arena& arena) { rest(all.back(), arena); }
  void merge(std::vector<V>& all, const std::vector<V>& more) const { all.insert(all.end(), more.begin(), more.end()); }
};

/// combine_by_key.
template <class V, class C, class Create, class MergeValue, class Merge>
struct GeneralCombine {
  Create create_f;
  MergeValue merge_value_f;
  Merge merge_f;
  auto functions() const { return std::tuple(&create_f, &merge_value_f, &merge_f); }
  C create(const V& value) const { return create_f(value); }
  void merge_value(C& sum, const V& value) const { sum = merge_value_f(std::move(sum), value); }
  void merge(C& sum, const C& other) const { sum = merge_f(std::move(sum), other); }
};

/// Moves records without combining them: record i of map partition p goes to target (p + i) mod n (repartition; with
/// one target: all to one). With `neighbours`, the number of map partitions, all of p go to one target, as a
/// UnionBody::coalesce would put them together. Order: map partition by map partition, as they came.
template <class T>
class MoveKernel : public ShuffleKernel {
  struct RecordsBucket : Bucket {
    RecordsBucket() : records(type_ops<T>()) {}
    RestedRecords records;
    std::size_t bytes() const override { return records.bytes(); }
  };

 public:
  explicit MoveKernel(std::uint64_t neighbours = 0) : neighbours_(neighbours) {}
  std::unique_ptr<ShuffleWriter> open_writer(const OpenAt& at, std::size_t targets) const override {
    if (neighbours_ == 0) return std::make_unique<Writer>(at.partition % targets, targets, targets > 1);
    return std::make_unique<Writer>(((at.partition + 1) * targets - 1) / neighbours_, targets, false);
  }
  void merge(const OpenAt& at, std::span<const BucketPtr> buckets, Pipe& out) const override {
    for (const BucketPtr& bucket : buckets) {
      if (bucket == nullptr) continue;
      at.task.check_cancelled();
      static_cast<const RecordsBucket&>(*bucket).records.push_all(out);
    }
  }
  void encode_bucket(const Bucket& bucket, Encoder& out) const override {
    static_cast<const RecordsBucket&>(bucket).records.encode_to(out);
  }
  BucketPtr decode_bucket(Decoder& in) const override {
    auto bucket = std::make_shared<RecordsBucket>();
    RestedRecords::decode_into(in, bucket->records);
    return bucket;
  }

 private:
  class Writer : public ShuffleWriter {
   public:
    Writer(std::size_t first, std::size_t targets, bool spreads) : next_(first), spreads_(spreads), buckets_(targets) {}
    void push(const void* records, std::size_t count) override {
      const T* in = static_cast<const T*>(records);
      const std::size_t targets = buckets_.size();
      if (!spreads_) {
        bucket(next_).append(in, count);
        return;
      }
      for (std::size_t i = 0; i < count; ++i) {
        bucket(next_).append(in + i, 1);
        next_ = next_ + 1 == targets ? 0 : next_ + 1;
      }
    }
    void finish() override {}
    std::vector<BucketPtr> take_buckets() override { return {buckets_.begin(), buckets_.end()}; }

   private:
    RestedRecords& bucket(std::size_t target) {
      if (buckets_[target] == nullptr) buckets_[target] = std::make_shared<RecordsBucket>();
      return buckets_[target]->records;
    }
    std::size_t next_;
    const bool spreads_;
    std::vector<std::shared_ptr<RecordsBucket>> buckets_;
  };
  const std::uint64_t neighbours_;
};

}  // namespace sluice::detail
