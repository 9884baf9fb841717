// Pairs brought together by key without being combined: for joins and keyed state.
//
// Between the two sides of such an operator a record is a table entry: kept key, value, and the hash, which is computed
// once and travels along.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "sluice/core/shuffles.h"
#include "sluice/core/table.h"
#include "sluice/core/task.h"

namespace sluice::detail {

template <class K, class V>
using Keyed = TableEntry<typename KeyTraits<K>::Kept, V>;

/// Ranges of the hash in which KeyedShuffle gives its records, as a number of bits.
inline constexpr unsigned hash_range_bits = 6;

/// Keyed records at rest, in segments, so that growth copies nothing.
template <class K, class V>
class KeyedRecords {
 public:
  using Record = Keyed<K, V>;

  KeyedRecords() = default;
  /// One of several that are filled at about the same speed: `number` keeps them from being at the same place of a
  /// page, where they would fight for one set of the first-level cache.
  explicit KeyedRecords(std::size_t number) : first_bytes_(512 + number % 64 * 64) {}

  void append(std::uint64_t hash, const typename KeyTraits<K>::Kept& key, const V& value) {
    if (segments_.empty() || segments_.back().size() == segments_.back().capacity()) add_segment();
    Record& record = segments_.back().emplace_back(Record{hash, key, value});
    KeyTraits<K>::rest(record.key, arena_);
    if constexpr (has_views_v<V>) rest(record.value, arena_);
    ++size_;
    // Where the record after the next ones goes: of many streams filled in turn the processor keeps no track.
    __builtin_prefetch(reinterpret_cast<const char*>(&record) + 128);
  }
  std::size_t size() const { return size_; }
  std::size_t bytes() const {
    std::size_t bytes = arena_.reserved_bytes();
    for (const Dense<Record>& segment : segments_) bytes += segment.bytes();
    return bytes;
  }
  const std::vector<Dense<Record>>& segments() const { return segments_; }
  Arena& arena() { return arena_; }
  void push_all(Pipe& out) const {
    for (const Dense<Record>& segment : segments_) {
      for (std::size_t i = 0; i < segment.size(); i += chunk_records<Record>) {
        out.push(segment.begin() + i, std::min(chunk_records<Record>, segment.size() - i));
      }
    }
  }

 private:
  static constexpr std::size_t segment_bytes_max = 64 << 10;
  void add_segment() {
    const std::size_t bytes =
        std::min(segment_bytes_max, first_bytes_ << std::min<std::size_t>(2 * segments_.size(), 16));
    segments_.emplace_back();
    segments_.back().reserve(bytes / sizeof(Record) + 1);
  }
  std::size_t first_bytes_ = 512;
  std::vector<Dense<Record>> segments_;
  std::size_t size_ = 0;
  Arena arena_;
};

/// Shuffles pairs by key; what comes out are Keyed<K, V> records in the order of their hash range, of which there are
/// at least 64 in all; within a range map partition by map partition, as they came. So a large table that is looked up
/// by them is worked on range by range, in the cache.
template <class K, class V>
class KeyedShuffle : public ShuffleKernel {
  using Traits = KeyTraits<K>;
  using Records = KeyedRecords<K, V>;
  struct KeyedBucket : Bucket {
    std::vector<Records> ranges;
    std::size_t bytes() const override {
      std::size_t bytes = 0;
      for (const Records& range : ranges) bytes += range.bytes();
      return bytes;
    }
  };

 public:
  std::unique_ptr<ShuffleWriter> open_writer(const OpenAt& at, std::size_t targets) const override {
    return std::make_unique<Writer>(at.task.environment().hash_seed, targets);
  }
  void merge(const OpenAt& at, std::span<const BucketPtr> buckets, Pipe& out) const override {
    std::size_t ranges = 0;
    for (const BucketPtr& bucket : buckets) {
      if (bucket != nullptr) ranges = std::max(ranges, static_cast<const KeyedBucket&>(*bucket).ranges.size());
    }
    for (std::size_t range = 0; range < ranges; ++range) {
      for (const BucketPtr& bucket : buckets) {
        if (bucket != nullptr) static_cast<const KeyedBucket&>(*bucket).ranges.at(range).push_all(out);
      }
      at.task.check_cancelled();
    }
  }
  void encode_bucket(const Bucket& bucket, Encoder& out) const override {
    const auto& ranges = static_cast<const KeyedBucket&>(bucket).ranges;
    out.varint(ranges.size());
    for (const Records& range : ranges) {
      out.varint(range.size());
      for (const auto& segment : range.segments()) {
        for (const auto& record : segment) {
          out.u64(record.hash);
          encode(K(Traits::leave(record.key)), out);
          encode(record.value, out);
        }
      }
    }
  }
  BucketPtr decode_bucket(Decoder& in) const override {
    auto bucket = std::make_shared<KeyedBucket>();
    typename Traits::Scratch scratch;
    bucket->ranges.resize(in.count());
    for (Records& range : bucket->ranges) {
      for (std::uint64_t left = in.varint(); left > 0; --left) {
        const std::uint64_t hash = in.u64();
        const K key = decode<K>(in);
        const V value = decode<V>(in);
        range.append(hash, Traits::probe(key, scratch), value);
      }
    }
    return bucket;
  }

 private:
  static constexpr unsigned range_bits = hash_range_bits;

  class Writer : public ShuffleWriter {
   public:
    Writer(std::uint64_t seed, std::size_t targets) : seed_(seed), targets_(targets), cells_() {
      const std::size_t cells = (std::size_t{1} << range_bits) + targets - 1;
      cells_.reserve(cells);
      for (std::size_t cell = 0; cell < cells; ++cell) cells_.emplace_back(cell);
    }
    void push(const void* records, std::size_t count) override {
      const auto* in = static_cast<const std::pair<K, V>*>(records);
      for (std::size_t i = 0; i < count; ++i) {
        const auto& key = Traits::probe(in[i].first, scratch_);
        const std::uint64_t hash = Traits::hash(key, seed_);
        cells_[cell_of(hash)].append(hash, key, in[i].second);
      }
    }
    void finish() override {}
    std::vector<BucketPtr> take_buckets() override {
      std::vector<BucketPtr> full;
      std::size_t cell = 0;
      for (std::size_t target = 0; target < targets_; ++target) {
        auto bucket = std::make_shared<KeyedBucket>();
        std::size_t records = 0;
        // Up to the cell of the target's largest hash.
        const std::size_t end = cell_of(hash_before(target + 1)) + 1;
        for (; cell < end; ++cell) {
          records += cells_[cell].size();
          bucket->ranges.push_back(std::move(cells_[cell]));
        }
        full.push_back(records == 0 ? nullptr : std::move(bucket));
      }
      return full;
    }

   private:
    // Ranges of the hash may be cut by partitions. Both numbers grow with the hash, so their sum tells the pieces
    // apart.
    std::size_t cell_of(std::uint64_t hash) const {
      return (hash >> (64 - range_bits)) + partition_of_hash(hash, targets_);
    }
    /// The largest hash of the partition before `target`.
    std::uint64_t hash_before(std::size_t target) const {
      return (static_cast<std::uint64_t>(first_group_of(target, targets_)) << (64 - key_group_bits)) - 1;
    }

    const std::uint64_t seed_;
    const std::size_t targets_;
    [[no_unique_address]] typename Traits::Scratch scratch_;
    std::vector<Records> cells_;
  };
};

/// Turns pairs that lie in the right partition already into Keyed records.
template <class K, class V>
class KeyKernel : public Kernel {
  using Traits = KeyTraits<K>;

 public:
  std::unique_ptr<Pipe> open(const OpenAt& at, Pipe& next) const override {
    return std::make_unique<KeyPipe>(at.task.environment().hash_seed, next);
  }

 private:
  class KeyPipe : public Pipe {
   public:
    KeyPipe(std::uint64_t seed, Pipe& next) : seed_(seed), out_(next) {}
    void push(const void* records, std::size_t count) override {
      const auto* in = static_cast<const std::pair<K, V>*>(records);
      typename ChunkBuffer<Keyed<K, V>>::Cursor cursor(out_);
      for (std::size_t i = 0; i < count; ++i) {
        const auto& key = Traits::probe(in[i].first, scratch_);
        cursor.emplace(Keyed<K, V>{Traits::hash(key, seed_), key, in[i].second});
        // Keys kept as codec bytes share one scratch buffer.
        if constexpr (std::is_same_v<typename Traits::Kept, Text> && !is_text_key_v<K>) cursor.flush();
      }
      cursor.flush();
    }
    void finish() override { out_.next().finish(); }
    bool full() const override { return out_.next().full(); }

   private:
    const std::uint64_t seed_;
    [[no_unique_address]] typename Traits::Scratch scratch_;
    ChunkBuffer<Keyed<K, V>> out_;
  };
};

/// Inner join of two Keyed inputs: for each right record, in order, each left value of its key, in order.
template <class K, class V, class W>
class JoinKernel : public ZipKernel {
  using Traits = KeyTraits<K>;
  using Out = std::pair<K, std::pair<V, W>>;

 public:
  std::unique_ptr<ZipInputs> open(const OpenAt& at, std::size_t inputs, Pipe& next) const override {
    SLUICE_ASSERT(inputs == 2);
    return std::make_unique<Join>(at, next);
  }

 private:
  class Join : public ZipInputs {
   public:
    Join(const OpenAt& at, Pipe& next) : left_(*this), right_(*this), at_(at), out_(next) {}
    Pipe& input(std::size_t index) override { return index == 0 ? static_cast<Pipe&>(left_) : right_; }

   private:
    static constexpr std::uint32_t none = ~0U;
    struct Chain {
      std::uint32_t first;
      std::uint32_t last;
    };
    struct Link {
      V value;
      std::uint32_t next;
    };

    class Left : public Pipe {
     public:
      explicit Left(Join& join) : join_(join) {}
      void push(const void* records, std::size_t count) override {
        const auto* in = static_cast<const Keyed<K, V>*>(records);
        for (std::size_t i = 0; i < count; ++i) join_.add_left(in[i]);
      }
      void finish() override {
        join_.left_finished_ = true;
        join_.waiting_.push_all(join_.right_);
        join_.finished();
      }

     private:
      Join& join_;
    };
    class Right : public Pipe {
     public:
      explicit Right(Join& join) : join_(join) {}
      void push(const void* records, std::size_t count) override {
        const auto* in = static_cast<const Keyed<K, W>*>(records);
        if (!join_.left_finished_) {
          for (std::size_t i = 0; i < count; ++i) join_.waiting_.append(in[i].hash, in[i].key, in[i].value);
          return;
        }
        typename ChunkBuffer<Out>::Cursor cursor(join_.out_);
        for (std::size_t i = 0; i < count; ++i) join_.probe(in[i], cursor);
        cursor.flush();
      }
      void finish() override {
        right_finished_ = true;
        join_.finished();
      }
      bool right_finished_ = false;

     private:
      Join& join_;
    };

    void add_left(const Keyed<K, V>& record) {
      const auto link = static_cast<std::uint32_t>(links_.size());
      links_.emplace_back(Link{record.value, none});
      if constexpr (has_views_v<V>) rest(links_.back().value, table_.arena());
      const auto [index, made] = table_.find_or_insert(record.hash, record.key, [&] { return Chain{link, link}; });
      if (made) return;
      Chain& chain = table_[index].value;
      links_[chain.last].next = link;
      chain.last = link;
    }
    template <class Cursor>
    void probe(const Keyed<K, W>& record, Cursor& cursor) {
      const std::uint32_t index = table_.find(record.hash, record.key);
      if (index == none) return;
      for (std::uint32_t link = table_[index].value.first; link != none; link = links_[link].next) {
        cursor.emplace(K(Traits::leave(record.key)), std::pair<V, W>(links_[link].value, record.value));
      }
    }
    void finished() {
      if (left_finished_ && right_.right_finished_) out_.next().finish();
    }

    Left left_;
    Right right_;
    const OpenAt at_;
    KeyTable<K, Chain> table_;
    Dense<Link> links_;
    KeyedRecords<K, W> waiting_;
    bool left_finished_ = false;
    ChunkBuffer<Out> out_;
  };
};

}  // namespace sluice::detail
