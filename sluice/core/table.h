// The hash table of the engine: for combining, grouping, joining and state.
//
// Entries lie densely, in the order of their first insertion, so that iteration is fast and its order depends on the
// input alone; a separate array of 8-byte slots is probed. Probing is done a block of records at a time: hash all,
// prefetch their slots, prefetch their entries, then look up (as in DuckDB's and Umbra's vectorised probes).
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "sluice/core/arena.h"
#include "sluice/core/buffer.h"
#include "sluice/core/key.h"
#include "sluice/runtime/errors.h"

namespace sluice::detail {

/// Records whose look-ups overlap. More does not help: a core has 10 to 16 outstanding misses.
inline constexpr std::size_t probe_block = 32;
/// How many look-ups before its turn a slot's entry is prefetched, and its slot twice as many.
inline constexpr std::size_t prefetch_ahead = 16;

template <class Kept, class Value>
struct TableEntry {
  std::uint64_t hash;
  Kept key;
  Value value;
};

/// Threads: one at a time. Movable. `K` is the user's key type.
template <class K, class Value>
class KeyTable {
 public:
  using Traits = KeyTraits<K>;
  using Kept = typename Traits::Kept;
  using Entry = TableEntry<Kept, Value>;
  static constexpr std::uint32_t none = ~0U;

  KeyTable() = default;

  std::size_t size() const { return entries_.size(); }
  Entry* begin() { return entries_.begin(); }
  Entry* end() { return entries_.end(); }
  const Entry* begin() const { return entries_.begin(); }
  const Entry* end() const { return entries_.end(); }
  Entry& operator[](std::uint32_t index) { return entries_[index]; }
  const Entry& operator[](std::uint32_t index) const { return entries_[index]; }
  Arena& arena() { return arena_; }

  // Always inline: g++ 12 takes a function that only prefetches for one without effect, and leaves out calls of it.
  [[gnu::always_inline]] void prefetch_slot(std::uint64_t hash) const {
    if (mask_ != 0) __builtin_prefetch(&slots_.data()[hash & mask_]);
  }
  /// The slots must be in the cache: those up to the key's own are looked at.
  [[gnu::always_inline]] void prefetch_entry(std::uint64_t hash) const {
    if (mask_ == 0) return;
    const auto tag = static_cast<std::uint32_t>(hash >> 32);
    std::uint64_t i = hash & mask_;
    Slot slot = slots_.data()[i];
    while (slot.tag != tag && slot.index_plus_1 != 0) slot = slots_.data()[i = (i + 1) & mask_];
    if (slot.index_plus_1 != 0) prefetch(slot.index_plus_1 - 1);
  }

  [[gnu::always_inline]] void prefetch(std::uint32_t index) const {
    const Entry* const entry = entries_.begin() + index;
    __builtin_prefetch(entry);
    // Entries of other sizes may lie in two cache lines.
    if constexpr (64 % sizeof(Entry) != 0) __builtin_prefetch(reinterpret_cast<const char*>(entry + 1) - 1);
  }

  /// Calls f(i) for i in 0..count-1, each some time after what the hash `hash_of(i)` leads to has been prefetched.
  template <class HashOf, class F>
  void for_each_prefetched(std::size_t count, HashOf&& hash_of, F&& f) const {
    for (std::size_t i = 0; i < std::min(count, 2 * prefetch_ahead); ++i) prefetch_slot(hash_of(i));
    for (std::size_t i = 0; i < std::min(count, prefetch_ahead); ++i) prefetch_entry(hash_of(i));
    for (std::size_t i = 0; i < count; ++i) {
      if (i + 2 * prefetch_ahead < count) prefetch_slot(hash_of(i + 2 * prefetch_ahead));
      if (i + prefetch_ahead < count) prefetch_entry(hash_of(i + prefetch_ahead));
      f(i);
    }
  }

  /// Index of the key's entry, or `none`.
  std::uint32_t find(std::uint64_t hash, const Kept& key) const {
    if (mask_ == 0) return none;
    const auto tag = static_cast<std::uint32_t>(hash >> 32);
    for (std::uint64_t i = hash & mask_;; i = (i + 1) & mask_) {
      const Slot slot = slots_.data()[i];
      if (slot.index_plus_1 == 0) return none;
      if (slot.tag == tag && Traits::equal(entries_[slot.index_plus_1 - 1].key, key)) return slot.index_plus_1 - 1;
    }
  }

  /// The key's entry, made by `make()` (which returns its Value) if it was not there; `second` tells. A new key's
  /// bytes are copied to the table's arena.
  template <class Make>
  std::pair<std::uint32_t, bool> find_or_insert(std::uint64_t hash, const Kept& key, Make&& make) {
    if (entries_.size() * 8 >= capacity_ * 5) grow();
    const auto tag = static_cast<std::uint32_t>(hash >> 32);
    for (std::uint64_t i = hash & mask_;; i = (i + 1) & mask_) {
      Slot& slot = slots_.data()[i];
      if (slot.index_plus_1 == 0) {
        Kept kept = key;
        Traits::rest(kept, arena_);
        entries_.emplace_back(Entry{hash, kept, make()});
        slot = {tag, static_cast<std::uint32_t>(entries_.size())};
        return {static_cast<std::uint32_t>(entries_.size() - 1), true};
      }
      if (slot.tag == tag && Traits::equal(entries_[slot.index_plus_1 - 1].key, key)) {
        return {slot.index_plus_1 - 1, false};
      }
    }
  }

  /// Takes an entry out: its key is not found any more, and comes last if it comes back. Its place in the order, with
  /// the value as it is, stays until `compact`, so that indices of others stay.
  void remove(std::uint32_t index) {
    remove_slot(slot_of(index));
    ++holes_;
  }
  /// Takes the last entry out together with its place; it must not have been removed before.
  void remove_last() {
    remove_slot(slot_of(static_cast<std::uint32_t>(entries_.size() - 1)));
    entries_.pop_back();
  }
  /// Places of removed entries.
  std::size_t holes() const { return holes_; }
  /// Drops the places of removed entries and the bytes of their keys. Calls moved(old index, new index) for each other
  /// entry, in order. Costs O(size).
  template <class Moved>
  void compact(const Moved& moved) {
    std::vector<bool> present(entries_.size());
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      if (slots_.data()[i].index_plus_1 != 0) present[slots_.data()[i].index_plus_1 - 1] = true;
    }
    KeyTable packed;
    packed.reserve(entries_.size() - holes_);
    for (std::uint32_t index = 0; index < entries_.size(); ++index) {
      if (!present[index]) continue;
      const auto to = static_cast<std::uint32_t>(packed.entries_.size());
      packed.entries_.emplace_back(std::move(entries_[index]));
      Traits::rest(packed.entries_.back().key, packed.arena_);
      packed.insert_slot(to);
      moved(index, to);
    }
    *this = std::move(packed);
  }

  void reserve(std::size_t entries) {
    entries_.reserve(entries);
    std::size_t capacity = std::bit_ceil(entries * 8 / 5 + 1);
    if (capacity < 16) capacity = 16;
    if (capacity > capacity_) rebuild(capacity);
  }
  void clear() {
    entries_.clear();
    arena_.clear();
    holes_ = 0;
    if (capacity_ != 0) slots_.zero();
  }
  /// Memory held, for budgets.
  std::size_t bytes() const { return slots_.bytes() + entries_.bytes() + arena_.reserved_bytes(); }

 private:
  struct Slot {
    std::uint32_t tag;
    std::uint32_t index_plus_1;
  };

  std::uint64_t slot_of(std::uint32_t index) const {
    for (std::uint64_t i = entries_[index].hash & mask_;; i = (i + 1) & mask_) {
      if (slots_.data()[i].index_plus_1 == index + 1) return i;
    }
  }
  // Linear probing needs no tombstones: slots behind the hole move up where that does not pass their home (Knuth,
  // TAOCP 6.4, algorithm R).
  void remove_slot(std::uint64_t hole) {
    for (std::uint64_t i = (hole + 1) & mask_;; i = (i + 1) & mask_) {
      const Slot slot = slots_.data()[i];
      if (slot.index_plus_1 == 0) break;
      const std::uint64_t home = entries_[slot.index_plus_1 - 1].hash & mask_;
      if (((i - home) & mask_) >= ((i - hole) & mask_)) {
        slots_.data()[hole] = slot;
        hole = i;
      }
    }
    slots_.data()[hole] = {0, 0};
  }
  void grow() { rebuild(capacity_ == 0 ? 16 : capacity_ * 2); }
  void rebuild(std::size_t capacity) {
    SLUICE_ASSERT(capacity <= (1ULL << 32));
    const RawArray<Slot> before = std::exchange(slots_, RawArray<Slot>(capacity));
    slots_.zero();
    capacity_ = capacity;
    mask_ = capacity - 1;
    if (holes_ == 0) {
      for (std::uint32_t index = 0; index < entries_.size(); ++index) insert_slot(index);
      return;
    }
    for (std::size_t i = 0; i < before.size(); ++i) {
      if (before.data()[i].index_plus_1 != 0) insert_slot(before.data()[i].index_plus_1 - 1);
    }
  }
  void insert_slot(std::uint32_t index) {
    const std::uint64_t hash = entries_[index].hash;
    std::uint64_t i = hash & mask_;
    while (slots_.data()[i].index_plus_1 != 0) i = (i + 1) & mask_;
    slots_.data()[i] = {static_cast<std::uint32_t>(hash >> 32), index + 1};
  }

  std::size_t capacity_ = 0;
  std::uint64_t mask_ = 0;
  std::size_t holes_ = 0;
  RawArray<Slot> slots_;
  Dense<Entry> entries_;
  Arena arena_;
};

}  // namespace sluice::detail
