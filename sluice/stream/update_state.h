// update_state_by_key.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "sluice/stream/keyed_state.h"

namespace sluice::detail {

/// What an entry of update_state_by_key is.
template <class S>
struct UpdateContent {
  static constexpr std::uint32_t none = ~0U;
  struct Entry {
    S state{};
    // The last value of the running batch, linked to those before. That there is no more than this makes a table entry
    // with key and state of 8 bytes one of 32, which never lies in two cache lines.
    std::uint32_t last = none;
    bool live = false;
    bool changed = false;
  };
  using Value = S;
  using Out = S;
  static constexpr bool keeps_places = false;
  static bool live(const Entry& entry) { return entry.live; }
  static const S& value(const Entry& entry) { return entry.state; }
  static const S& out(const Entry& entry) { return entry.state; }
  static S take_out(S state) { return state; }
  static Entry entry(S state) { return {std::move(state), none, true, false}; }
};

template <class K, class S>
class UpdateState : public KeyedState<K, UpdateContent<S>> {
 public:
  using KeyedState<K, UpdateContent<S>>::KeyedState;
  /// Entries for which the function was called in the batch of `version` and that have a state, in that order, where
  /// idle keys keep their state. Nothing when the state was taken over after that batch.
  std::optional<Dense<EntryAt>> called;
  /// Entries that it changed: about as many will be the next time.
  std::size_t undos = 0;

  void loaded(std::int64_t batch) override {
    called.reset();
    KeyedState<K, UpdateContent<S>>::loaded(batch);
  }
  void apply(std::span<const StateBlock> blocks, std::int64_t batch) override {
    called.reset();
    KeyedState<K, UpdateContent<S>>::apply(blocks, batch);
  }
};

/// Input: Keyed<K, V> records; with `in_order` in the order of their hash range (KeyedShuffle). Output: (key, new
/// state) of the keys whose function was called and that have a state.
template <class K, class V, class S, class F>
class UpdateStateKernel : public ZipKernel {
  using State = UpdateState<K, S>;
  using Group = typename State::Group;
  using Entry = typename State::Entry;
  using Out = std::pair<K, S>;
  static constexpr std::uint32_t none = UpdateContent<S>::none;

 public:
  UpdateStateKernel(StateOf<State> state, bool idle_keeps_state, bool in_order, Fn<F> f)
      : state_(std::move(state)), idle_keeps_state_(idle_keeps_state), in_order_(in_order), f_(std::move(f)) {}

  std::unique_ptr<ZipInputs> open(const OpenAt& at, std::size_t, Pipe& next) const override {
    if (auto large = large_partition(at, state_.operation)) {
      return std::make_unique<LargeUpdateOf<K, V, S, F>>(at, std::move(large), idle_keeps_state_, in_order_, f_.f,
                                                         next);
    }
    return std::make_unique<Update>(*this, at, next);
  }

 private:
  // Key groups that are worked on together: all that a batch has of them is looked up, then the function is called for
  // their keys, while their entries lie in the second-level cache.
  static constexpr std::uint32_t bucket_groups = key_groups >> hash_range_bits;

  class Update : public ZipInputs, private Pipe {
   public:
    Update(const UpdateStateKernel& kernel, const OpenAt& at, Pipe& next)
        : kernel_(kernel),
          at_(at),
          out_(next),
          emits_(!next.ignores_records()),
          state_(kernel.state_.at(at)),
          attempt_(state_->begin_attempt()),
          again_(state_has_batch(at, state_->version)),
          bucket_end_(kernel.in_order_ ? 0 : state_->groups()) {
      if (again_) {
        if (!kernel.idle_keeps_state_ || state_->called.has_value()) return;
        throw Error(Code::state_is_gone, {.operation = at.info.name, .where = at.info.where});
      }
      undo_.reserve(state_->undos + state_->undos / 8);
      const std::size_t called = state_->called.has_value() ? state_->called->size() : 0;
      called_.reserve(called + called / 8);
    }
    ~Update() override {
      if (!committed_ && !again_) undo();
    }
    Pipe& input(std::size_t) override { return *this; }

    void commit() override {
      committed_ = true;
      if (again_) return;
      for (const EntryAt at : dropped_) state_->remove(at);
      if (!dropped_.empty()) {
        Dense<EntryAt> kept;
        for (const EntryAt at : called_) {
          if (state_->entry(at).live) kept.emplace_back(at);
        }
        called_ = std::move(kept);
      }
      state_->undos = undo_.size();
      state_->called = std::move(called_);
      state_->version = at_.batch;
    }

   private:
    struct Link {
      V value;
      std::uint32_t previous;
    };
    // As small as can be: a large batch writes many.
    struct Undo {
      std::uint32_t group : 31;
      std::uint32_t live : 1;
      std::uint32_t index;
      S state;
    };
    using Record = Keyed<K, V>;

    void push(const void* records, std::size_t count) override {
      if (again_ || count == 0) return;
      const auto* in = static_cast<const Record*>(records);
      typename ChunkBuffer<Out>::Cursor cursor(out_);
      // A chunk lies in one range of hashes, and a bucket is no smaller than a range.
      call_until(state_->group_of(in[0].hash), cursor);
      state_->for_each_prefetched(
          count, [in](std::size_t i) { return in[i].hash; }, [&](std::size_t i) { add(in[i]); });
      cursor.flush();
    }
    // Calls the function for all groups before the bucket of `group`: they have all their values.
    template <class Cursor>
    void call_until(std::uint32_t group, Cursor& cursor) {
      if (group < bucket_end_) return;
      const std::uint32_t first = state_->first_group();
      const std::uint32_t bucket = (first + group) / bucket_groups * bucket_groups;
      const std::uint32_t begin = bucket > first ? bucket - first : 0;
      call_all(bucket_begin_, begin, cursor);
      bucket_begin_ = begin;
      bucket_end_ = std::min(bucket + bucket_groups - first, state_->groups());
    }
    void add(const Record& record) {
      const std::uint32_t g = state_->group_of(record.hash);
      Group& group = enter(g);
      const std::uint32_t index = state_->find_or_insert(group, record.hash, record.key);
      Entry& entry = group.table[index].value;
      const auto link = static_cast<std::uint32_t>(links_.size());
      links_.emplace_back(Link{record.value, entry.last});
      if constexpr (has_views_v<V>) rest(links_.back().value, values_);
      if (entry.last == none) touched_.emplace_back(EntryAt{g, index});
      entry.last = link;
    }
    Group& enter(std::uint32_t g) {
      return state_->enter(g, attempt_, [this](std::uint32_t entered) { entered_.push_back(entered); });
    }

    void finish() override {
      typename ChunkBuffer<Out>::Cursor cursor(out_);
      if (again_) {
        emit_again(cursor);
      } else {
        call_all(bucket_begin_, state_->groups(), cursor);
      }
      cursor.flush();
      out_.next().finish();
    }

    // The keys that have values, or all that are known, in a range of groups to which all touched ones belong.
    template <class Cursor>
    void call_all(std::uint32_t begin, std::uint32_t end, Cursor& cursor) {
      if (kernel_.idle_keeps_state_) {
        constexpr std::size_t ahead = prefetch_ahead / 2;
        for (std::size_t i = 0; i < touched_.size(); ++i) {
          if (i + ahead < touched_.size()) {
            state_->group(touched_[i + ahead].group).table.prefetch(touched_[i + ahead].index);
          }
          call(state_->group(touched_[i].group), touched_[i], cursor);
        }
        called_.append(touched_.begin(), touched_.size());
      } else {
        state_->for_each_used(begin, end, [&](std::uint32_t g) {
          Group& group = enter(g);
          for (std::uint32_t index = 0; index < group.table.size(); ++index) {
            const Entry& entry = group.table[index].value;
            if (entry.live || entry.last != none) call(group, {g, index}, cursor);
          }
        });
      }
      touched_.clear();
      links_.clear();
      if constexpr (has_views_v<V>) values_.clear();
    }
    template <class Cursor>
    [[gnu::always_inline]] void call(Group& group, EntryAt at, Cursor& cursor) {
      Entry& entry = group.table[at.index].value;
      std::span<const V> values;
      if (entry.last != none) values = values_of(entry.last);
      entry.last = none;
      std::optional<S> result;
      try {
        result = kernel_.f_.f(values, entry.live ? std::optional<S>(entry.state) : std::optional<S>());
      } catch (...) {
        rethrow_at_record(at_, calls_);
      }
      ++calls_;
      if (!is_same(entry, result)) {
        if (at.index < group.size_before) {
          undo_.emplace_back(Undo{at.group & 0x7fffffffU, entry.live ? 1U : 0U, at.index, std::move(entry.state)});
        }
        entry.live = result.has_value();
        if (entry.live) {
          entry.state = std::move(*result);
          state_->mark(group, at.index);
        }
      }
      if (!entry.live) {
        dropped_.emplace_back(at);
      } else if (emits_) {
        cursor.emplace(KeyTraits<K>::leave(group.table[at.index].key), entry.state);
      }
    }
    template <class Cursor>
    void emit_again(Cursor& cursor) {
      const auto emit = [&](const auto& entry) {
        if (entry.value.live) cursor.emplace(KeyTraits<K>::leave(entry.key), entry.value.state);
      };
      if (!kernel_.idle_keeps_state_) {
        state_->for_each_used(0, state_->groups(), [&](std::uint32_t g) {
          for (const auto& entry : state_->group(g).table) emit(entry);
        });
      } else {
        for (const EntryAt at : *state_->called) emit(state_->group(at.group).table[at.index]);
      }
    }

    std::span<const V> values_of(std::uint32_t last) {
      const Link& link = links_[last];
      if (link.previous == none) return {&link.value, 1};
      gathered_.clear();
      for (std::uint32_t l = last; l != none; l = links_[l].previous) gathered_.push_back(links_[l].value);
      std::reverse(gathered_.begin(), gathered_.end());
      return gathered_;
    }
    // An idle key that stays as it was needs no undo and no checkpoint. Only plain values are cheap to compare.
    static bool is_same(const Entry& entry, const std::optional<S>& result) {
      if constexpr (is_plain_v<S>) {
        return entry.live && result.has_value() && std::memcmp(&entry.state, &*result, sizeof(S)) == 0;
      } else {
        return false;
      }
    }

    void undo() {
      // Of a bucket that was not finished.
      for (const EntryAt at : touched_) state_->entry(at).last = none;
      for (Undo& change : undo_) {
        Entry& entry = state_->entry({change.group, change.index});
        entry.live = change.live != 0;
        entry.state = std::move(change.state);
      }
      for (const std::uint32_t g : entered_) state_->remove_new(state_->group(g));
    }

    const UpdateStateKernel& kernel_;
    const OpenAt at_;
    ChunkBuffer<Out> out_;
    const bool emits_;
    const std::shared_ptr<State> state_;
    const std::uint64_t attempt_;
    const bool again_;
    bool committed_ = false;
    std::uint32_t bucket_begin_ = 0;
    std::uint32_t bucket_end_;
    std::vector<std::uint32_t> entered_;
    // Of the running bucket.
    Dense<EntryAt> touched_;
    Dense<Link> links_;
    Arena values_;
    std::vector<V> gathered_;
    // Of the attempt.
    Dense<EntryAt> called_;
    Dense<EntryAt> dropped_;
    Dense<Undo> undo_;
    std::uint64_t calls_ = 0;
  };

  StateOf<State> state_;
  bool idle_keeps_state_;
  bool in_order_;
  Fn<F> f_;
};

}  // namespace sluice::detail
