// Keyed state that lives from batch to batch: update_state_by_key and windows with an inverse.
//
// Invariants:
//  S1. A partition's state is changed by one attempt at a time, in place, with an undo log; an attempt that does not
//      commit leaves it as it was.
//  S2. `version` is the last batch time that committed. A job that asks for that batch again (an output tried again)
//      changes nothing and gets the same records.
//  S3. The order of entries follows from the sequence of batches alone.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "sluice/core/keyed.h"
#include "sluice/core/stores.h"

namespace sluice::detail {

/// What both kinds of state share: a table, the batch it stands at, and what the last batch touched.
template <class K, class Entry>
class KeyedState : public StatePartition {
 public:
  KeyTable<K, Entry> table;
  std::int64_t version = 0;
  /// Entries that the batch of `version` changed, in the order in which it first met them.
  Dense<std::uint32_t> touched;
};

/// Emits all live entries of a state at the end of its update; the update's own records are left out.
/// `State` has `static bool live(const Entry&)`, `static Out value(const Entry&)`.
template <class K, class State, class Out>
class SnapshotKernel : public Kernel {
 public:
  explicit SnapshotKernel(std::uint64_t operation) : operation_(operation) {}
  std::unique_ptr<Pipe> open(const OpenAt& at, Pipe& next) const override {
    return std::make_unique<Snapshot>(operation_, at, next);
  }

 private:
  class Snapshot : public Pipe {
   public:
    Snapshot(std::uint64_t operation, const OpenAt& at, Pipe& next) : operation_(operation), at_(at), next_(next) {}
    void push(const void*, std::size_t) override {}
    void finish() override {
      const auto state = State::of(at_, operation_);
      const auto& table = state->table;
      push_entries<std::pair<K, Out>>(at_, table.begin(), table.end(), next_, [](const auto& entry, auto& cursor) {
        if (State::live(entry.value)) cursor.emplace(KeyTraits<K>::leave(entry.key), State::value(entry.value));
      });
      next_.finish();
    }
    // The update itself must see all records.
    bool full() const override { return false; }

   private:
    std::uint64_t operation_;
    const OpenAt at_;
    Pipe& next_;
  };
  std::uint64_t operation_;
};

// ---- update_state_by_key

template <class K, class V, class S>
struct UpdateState {
  static constexpr std::uint32_t none = ~0U;
  struct Entry {
    S state{};
    // The last value of the running batch, linked to those before. That there is no more than this makes a table entry
    // with key and state of 8 bytes one of 32, which never lies in two cache lines.
    std::uint32_t last = none;
    bool live = false;
  };
  using Partition = KeyedState<K, Entry>;
  static bool live(const Entry& entry) { return entry.live; }
  static const S& value(const Entry& entry) { return entry.state; }
  static std::shared_ptr<Partition> of(const OpenAt& at, std::uint64_t operation) {
    return std::static_pointer_cast<Partition>(
        at.task.environment().states.get(operation, at.partition, [] { return std::make_shared<Partition>(); }));
  }
};

/// Input: Keyed<K, V> records. Output: (key, new state) of the keys whose function was called and that have a state.
template <class K, class V, class S, class F>
class UpdateStateKernel : public ZipKernel {
  using State = UpdateState<K, V, S>;
  using Entry = typename State::Entry;
  using Out = std::pair<K, S>;
  static constexpr std::uint32_t none = State::none;

 public:
  UpdateStateKernel(std::uint64_t operation, bool idle_keeps_state, Fn<F> f)
      : operation_(operation), idle_keeps_state_(idle_keeps_state), f_(std::move(f)) {}

  std::unique_ptr<ZipInputs> open(const OpenAt& at, std::size_t, Pipe& next) const override {
    return std::make_unique<Update>(*this, at, next);
  }

 private:
  class Update : public ZipInputs, private Pipe {
   public:
    Update(const UpdateStateKernel& kernel, const OpenAt& at, Pipe& next)
        : kernel_(kernel),
          at_(at),
          out_(next),
          state_(State::of(at, kernel.operation_)),
          entries_before_(state_->table.size()),
          again_(state_has_batch(at, state_->version)) {}
    ~Update() override {
      if (!committed_ && !again_) undo();
    }
    Pipe& input(std::size_t) override { return *this; }

    void commit() override {
      committed_ = true;
      if (again_) return;
      if (any_dropped_) drop();
      state_->touched = std::move(touched_);
      state_->version = at_.batch;
    }

   private:
    struct Link {
      V value;
      std::uint32_t previous;
    };
    struct Undo {
      std::uint32_t index;
      bool live;
      S state;
    };

    // Dropped keys leave the table, last ones first so that an entry that takes a hole is never itself dropped.
    void drop() {
      auto& table = state_->table;
      std::vector<std::uint32_t> dropped;
      Dense<std::uint32_t> kept;
      for (const std::uint32_t index : touched_) {
        if (table[index].value.live) {
          kept.emplace_back(index);
        } else {
          dropped.push_back(index);
        }
      }
      std::sort(dropped.begin(), dropped.end(), std::greater<>());
      std::vector<std::uint32_t> place_of;  // of moved entries, by old index
      for (const std::uint32_t index : dropped) {
        const std::uint32_t moved = table.erase(index);
        if (moved == index) continue;
        if (place_of.empty()) place_of.resize(table.size() + dropped.size() + 1, none);
        place_of[moved] = index;
      }
      if (!place_of.empty()) {
        for (std::uint32_t& index : kept) {
          while (index < place_of.size() && place_of[index] != none) index = place_of[index];
        }
      }
      touched_ = std::move(kept);
    }
    void push(const void* records, std::size_t count) override {
      if (again_) return;
      const auto* in = static_cast<const Keyed<K, V>*>(records);
      state_->table.for_each_prefetched(
          count, [in](std::size_t i) { return in[i].hash; }, [&](std::size_t i) { add(in[i]); });
    }
    void add(const Keyed<K, V>& record) {
      const std::uint32_t index = state_->table.find_or_insert(record.hash, record.key, [] { return Entry{}; }).first;
      Entry& entry = state_->table[index].value;
      const auto link = static_cast<std::uint32_t>(links_.size());
      links_.emplace_back(Link{record.value, entry.last});
      if constexpr (has_views_v<V>) rest(links_.back().value, values_);
      if (entry.last == none) touched_.emplace_back(index);
      entry.last = link;
    }

    void finish() override {
      typename ChunkBuffer<Out>::Cursor cursor(out_);
      if (again_) {
        for (const std::uint32_t index : state_->touched) emit(index, cursor);
      } else if (kernel_.idle_keeps_state_) {
        call_all(static_cast<std::uint32_t>(touched_.size()), [this](std::uint32_t i) { return touched_[i]; }, cursor);
      } else {
        // Every known key is called: those of this batch and the idle ones, in the order of the table.
        // `touched_` is what an undo needs until that is done.
        const auto keys = static_cast<std::uint32_t>(state_->table.size());
        call_all(keys, [](std::uint32_t i) { return i; }, cursor);
        touched_.clear();
        touched_.reserve(keys);
        for (std::uint32_t index = 0; index < keys; ++index) touched_.emplace_back(index);
      }
      cursor.flush();
      out_.next().finish();
    }

    // Entry, last value, the one before: each is prefetched, and looked at some keys later to find the next.
    template <class IndexOf, class Cursor>
    void call_all(std::uint32_t count, const IndexOf& index_of, Cursor& cursor) {
      constexpr std::uint32_t ahead = prefetch_ahead / 2;
      const auto& table = state_->table;
      for (std::uint32_t i = 0; i < count; ++i) {
        if (i + 3 * ahead < count) table.prefetch(index_of(i + 3 * ahead));
        if (i + 2 * ahead < count) {
          const std::uint32_t last = table[index_of(i + 2 * ahead)].value.last;
          if (last != none) __builtin_prefetch(&links_[last]);
        }
        if (i + ahead < count) {
          const std::uint32_t last = table[index_of(i + ahead)].value.last;
          if (last != none && links_[last].previous != none) __builtin_prefetch(&links_[links_[last].previous]);
        }
        call(index_of(i), cursor);
      }
    }
    template <class Cursor>
    void call(std::uint32_t index, Cursor& cursor) {
      Entry& entry = state_->table[index].value;
      std::span<const V> values;
      if (entry.last != none) values = values_of(entry.last);
      entry.last = none;
      std::optional<S> result;
      try {
        result = kernel_.f_.f(values, entry.live ? std::optional<S>(entry.state) : std::optional<S>());
      } catch (...) {
        rethrow_at_record(at_, index);
      }
      any_dropped_ |= !result.has_value();
      if (index < entries_before_ && !is_same(entry, result)) {
        undo_.emplace_back(Undo{index, entry.live, std::move(entry.state)});
      }
      entry.live = result.has_value();
      if (entry.live) entry.state = std::move(*result);
      emit(index, cursor);
    }
    template <class Cursor>
    void emit(std::uint32_t index, Cursor& cursor) {
      const auto& entry = state_->table[index];
      if (entry.value.live) cursor.emplace(KeyTraits<K>::leave(entry.key), entry.value.state);
    }

    std::span<const V> values_of(std::uint32_t last) {
      const Link& link = links_[last];
      if (link.previous == none) return {&link.value, 1};
      gathered_.clear();
      for (std::uint32_t l = last; l != none; l = links_[l].previous) gathered_.push_back(links_[l].value);
      std::reverse(gathered_.begin(), gathered_.end());
      return gathered_;
    }
    // An idle key that stays as it was needs no undo. Only plain values are cheap to compare.
    static bool is_same(const Entry& entry, const std::optional<S>& result) {
      if constexpr (is_plain_v<S>) {
        return entry.live && result.has_value() && std::memcmp(&entry.state, &*result, sizeof(S)) == 0;
      } else {
        return false;
      }
    }

    void undo() {
      auto& table = state_->table;
      for (const std::uint32_t index : touched_) {
        Entry& entry = table[index].value;
        entry.last = none;
      }
      for (Undo& change : undo_) {
        table[change.index].value.live = change.live;
        table[change.index].value.state = std::move(change.state);
      }
      // New keys lie at the end.
      while (table.size() > entries_before_) table.erase(static_cast<std::uint32_t>(table.size() - 1));
    }

    const UpdateStateKernel& kernel_;
    const OpenAt at_;
    ChunkBuffer<Out> out_;
    std::shared_ptr<typename State::Partition> state_;
    const std::size_t entries_before_;
    const bool again_;
    bool committed_ = false;
    Dense<std::uint32_t> touched_;
    bool any_dropped_ = false;
    Dense<Link> links_;
    Arena values_;
    std::vector<V> gathered_;
    Dense<Undo> undo_;
  };

  std::uint64_t operation_;
  bool idle_keeps_state_;
  Fn<F> f_;
};

// ---- Windows with an inverse

template <class K, class V>
struct WindowState {
  struct Entry {
    V value{};
    /// Batches in the window that have the key; the key is gone when none has.
    std::uint32_t batches = 0;
  };
  struct Change {
    std::uint32_t index;
    V value;
  };
  /// What one batch brought in, until it leaves.
  struct Delta {
    std::int64_t time;
    Dense<Change> changes;
  };
  struct Partition : KeyedState<K, Entry> {
    std::deque<Delta> deltas;
    std::size_t dead = 0;
  };
  static bool live(const Entry& entry) { return entry.batches > 0; }
  static const V& value(const Entry& entry) { return entry.value; }
  static std::shared_ptr<Partition> of(const OpenAt& at, std::uint64_t operation) {
    return std::static_pointer_cast<Partition>(
        at.task.environment().states.get(operation, at.partition, [] { return std::make_shared<Partition>(); }));
  }
};

/// Inputs: the reduced (K, V) of the batches that enter, as Keyed records, in order of time; input i has batch time
/// T - (inputs - 1 - i) * step. Output: nothing; the window's content is its snapshot.
template <class K, class V, class F, class Inverse>
class WindowStateKernel : public ZipKernel {
  using State = WindowState<K, V>;
  using Entry = typename State::Entry;

 public:
  WindowStateKernel(std::uint64_t operation, std::int64_t length, std::int64_t step, Fn<F> f, Fn<Inverse> inverse)
      : operation_(operation), length_(length), step_(step), f_(std::move(f)), inverse_(std::move(inverse)) {}

  std::unique_ptr<ZipInputs> open(const OpenAt& at, std::size_t inputs, Pipe& next) const override {
    return std::make_unique<Slide>(*this, at, inputs, next);
  }

 private:
  class Slide : public ZipInputs {
   public:
    Slide(const WindowStateKernel& kernel, const OpenAt& at, std::size_t inputs, Pipe& next)
        : kernel_(kernel),
          at_(at),
          next_(next),
          state_(State::of(at, kernel.operation_)),
          entries_before_(state_->table.size()),
          deltas_before_(state_->deltas.size()),
          again_(state_has_batch(at, state_->version)),
          open_inputs_(inputs) {
      for (std::size_t i = 0; i < inputs; ++i) {
        const std::int64_t time = at.batch - static_cast<std::int64_t>(inputs - 1 - i) * kernel.step_;
        entering_.push_back(std::make_unique<Entering>(*this, time));
      }
    }
    ~Slide() override {
      if (!committed_ && !again_) undo();
    }
    Pipe& input(std::size_t index) override { return *entering_[index]; }

    void commit() override {
      committed_ = true;
      if (again_) return;
      auto& state = *state_;
      for (std::size_t i = 0; i < left_; ++i) state.deltas.pop_front();
      state.version = at_.batch;
      state.dead = 0;
      for (const auto& entry : state.table) state.dead += entry.value.batches == 0 ? 1 : 0;
      if (state.dead * 2 > state.table.size()) compact();
    }

   private:
    class Entering : public Pipe {
     public:
      Entering(Slide& slide, std::int64_t time) : slide_(slide), delta_{time, {}} {}
      void push(const void* records, std::size_t count) override {
        if (slide_.again_) return;
        const auto* in = static_cast<const Keyed<K, V>*>(records);
        auto& table = slide_.state_->table;
        table.for_each_prefetched(
            count, [in](std::size_t i) { return in[i].hash; },
            [&](std::size_t i) {
              const std::uint32_t index = table.find_or_insert(in[i].hash, in[i].key, [] { return Entry{}; }).first;
              delta_.changes.emplace_back(typename State::Change{index, in[i].value});
            });
      }
      void finish() override { slide_.finished(); }

     private:
      friend class Slide;
      Slide& slide_;
      typename State::Delta delta_;
    };

    void finished() {
      if (--open_inputs_ > 0) return;
      if (!again_) slide();
      next_.finish();
    }

    // First what leaves is taken out, then what enters is put in, oldest batch first (as Spark).
    void slide() {
      auto& state = *state_;
      const std::int64_t oldest = at_.batch - kernel_.length_;
      try {
        for (const typename State::Delta& delta : state.deltas) {
          if (delta.time > oldest) break;
          ++left_;
          for (const typename State::Change& change : delta.changes) {
            Entry& entry = state.table[change.index].value;
            log(change.index, entry);
            if (--entry.batches > 0) entry.value = kernel_.inverse_.f(entry.value, change.value);
          }
        }
        for (auto& entering : entering_) {
          if (entering->delta_.time <= oldest) continue;  // slide > length: never in the window
          for (const typename State::Change& change : entering->delta_.changes) {
            Entry& entry = state.table[change.index].value;
            log(change.index, entry);
            entry.value = entry.batches++ == 0 ? change.value : kernel_.f_.f(entry.value, change.value);
          }
          state.deltas.push_back(std::move(entering->delta_));
        }
      } catch (...) {
        rethrow_at_record(at_, undo_.size());
      }
    }
    void log(std::uint32_t index, const Entry& entry) {
      if (index < entries_before_) undo_.emplace_back(Undo{index, entry});
    }
    void undo() {
      auto& state = *state_;
      while (!undo_.empty()) {
        state.table[undo_.back().index].value = undo_.back().entry;
        undo_.pop_back();
      }
      while (state.deltas.size() > deltas_before_) state.deltas.pop_back();
      while (state.table.size() > entries_before_) {
        state.table.erase(static_cast<std::uint32_t>(state.table.size() - 1));
      }
    }
    // Dead entries go when they are more than half; the deltas' indices follow. Costs O(window), once per as many
    // deaths.
    void compact() {
      auto& state = *state_;
      KeyTable<K, Entry> table;
      table.reserve(state.table.size() - state.dead);
      std::vector<std::uint32_t> place(state.table.size());
      for (std::uint32_t i = 0; i < state.table.size(); ++i) {
        auto& entry = state.table[i];
        if (entry.value.batches == 0) continue;
        place[i] = table.find_or_insert(entry.hash, entry.key, [&] { return std::move(entry.value); }).first;
      }
      for (typename State::Delta& delta : state.deltas) {
        for (typename State::Change& change : delta.changes) change.index = place[change.index];
      }
      state.table = std::move(table);
      state.dead = 0;
    }

    struct Undo {
      std::uint32_t index;
      Entry entry;
    };
    const WindowStateKernel& kernel_;
    const OpenAt at_;
    Pipe& next_;
    std::shared_ptr<typename State::Partition> state_;
    const std::size_t entries_before_;
    const std::size_t deltas_before_;
    const bool again_;
    bool committed_ = false;
    std::size_t open_inputs_;
    std::size_t left_ = 0;
    std::vector<std::unique_ptr<Entering>> entering_;
    Dense<Undo> undo_;
  };

  std::uint64_t operation_;
  std::int64_t length_;
  std::int64_t step_;
  Fn<F> f_;
  Fn<Inverse> inverse_;
};

}  // namespace sluice::detail
