// Windows with an inverse: reduce_by_key_and_window(f, inverse, ...).
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <iterator>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "sluice/stream/keyed_state.h"
#include "sluice/stream/large_window.h"

namespace sluice::detail {

/// What an entry of a window is.
template <class V>
struct WindowContent {
  struct Entry {
    V value{};
    /// Batches in the window that have the key; the key is gone when none has.
    std::uint32_t batches = 0;
    bool changed = false;
  };
  using Value = std::pair<V, std::uint32_t>;
  using Out = V;
  static constexpr bool keeps_places = true;
  static bool live(const Entry& entry) { return entry.batches > 0; }
  static Value value(const Entry& entry) { return {entry.value, entry.batches}; }
  static const V& out(const Entry& entry) { return entry.value; }
  static V take_out(Value value) { return std::move(value.first); }
  static Entry entry(Value saved) { return {std::move(saved.first), saved.second, false}; }
};

/// The window's sums, and what each of its batches brought in, until it leaves.
template <class K, class V>
class WindowState : public KeyedState<K, WindowContent<V>> {
  using Base = KeyedState<K, WindowContent<V>>;

 public:
  using Base::Base;
  using Group = typename Base::Group;

  struct Change {
    EntryAt at;
    V value;
  };
  struct Delta {
    std::int64_t time;
    Dense<Change> changes;
  };
  std::deque<Delta> deltas;

  /// A batch is final: it is a part of the next checkpoint. Nothing else is known of it once it has left the window, so
  /// it is written now.
  void save(const Delta& delta) {
    if (!this->tracks()) return;
    Encoder out;
    out.varint(delta.changes.size());
    for (const Change& change : delta.changes) {
      Base::save_key(this->group(change.at.group).table[change.at.index].key, out);
      save_value(change.value, out);
    }
    logs_.push_back({StateBlock::What::log, this->first_group(), delta.time, out.take()});
  }

  void mark_all() override {
    Base::mark_all();
    logs_.clear();
    for (const Delta& delta : deltas) save(delta);
  }

  void freeze() override {
    Base::freeze();
    for (StateBlock& log : logs_) this->written_.push_back(std::move(log));
    logs_.clear();
  }

  // The keys of batches are looked up when all sums are there.
  void load(const StateBlock& block, const StateSchema& written) override {
    if (block.what == StateBlock::What::entries) return Base::load(block, written);
    loaded_logs_.push_back(block);
    loaded_length_ = written.log_length;
  }

  void loaded(std::int64_t batch) override {
    for (const StateBlock& log : loaded_logs_) {
      if (log.batch > batch - loaded_length_) load_log(log);
    }
    loaded_logs_.clear();
    Base::loaded(batch);
  }

  void apply(std::span<const StateBlock> blocks, std::int64_t batch) override {
    compact_if_worth();
    const std::uint64_t attempt = this->begin_attempt();
    const typename Base::Reader read(this->own_schema());
    for (const StateBlock& block : blocks) {
      if (block.what == StateBlock::What::entries) this->load_entries(block, read, attempt);
    }
    // Unlike entries, a batch must not be taken in twice.
    const std::int64_t had = this->version;
    for (const StateBlock& block : blocks) {
      if (block.what != StateBlock::What::log || block.batch <= had) continue;
      load_log(block);
      if (this->tracks()) logs_.push_back(block);
    }
    while (!deltas.empty() && deltas.front().time <= batch - this->own_schema().log_length) deltas.pop_front();
    Base::loaded(batch);
  }

  static StateSchema schema(Duration length, Duration slide) {
    StateSchema made = Base::schema("window", slide);
    made.log_length = length.count();
    return made;
  }

  /// Drops the places of removed entries when they are most of all. Costs O(window), once per as many removals.
  void compact_if_worth() {
    if (!Base::worth_compacting(this->holes(), this->holes() + this->size())) return;
    std::vector<std::vector<std::uint32_t>> places(this->groups());
    this->for_each_used(0, this->groups(), [&](std::uint32_t g) {
      this->write_if_frozen(g);
      places[g] = this->compact(this->group(g));
    });
    for (Delta& delta : deltas) {
      for (Change& change : delta.changes) change.at.index = places[change.at.group][change.at.index];
    }
  }

 private:
  void load_log(const StateBlock& block) {
    Decoder in(block.bytes);
    typename Base::Traits::Scratch scratch;
    Delta delta{block.batch, {}};
    for (std::uint64_t left = in.varint(); left > 0; --left) {
      const K key = Base::load_key(in);
      V value = load_value<V>(in);
      const auto& kept = Base::Traits::probe(key, scratch);
      const std::uint64_t hash = Base::Traits::hash(kept, this->seed());
      if (!this->has_group(hash)) continue;
      const std::uint32_t g = this->group_of(hash);
      const std::uint32_t index = this->group(g).table.find(hash, kept);
      if (index == Base::Table::none) in.fail_corrupt("a batch of a window has a key that the window has not");
      delta.changes.emplace_back(Change{{g, index}, std::move(value)});
    }
    in.expect_end();
    // The same batch comes once for each partition that wrote it.
    auto place = deltas.end();
    while (place != deltas.begin() && std::prev(place)->time >= delta.time) --place;
    if (place == deltas.end() || place->time != delta.time) {
      deltas.insert(place, std::move(delta));
    } else {
      for (Change& change : delta.changes) place->changes.emplace_back(std::move(change));
    }
  }

  std::vector<StateBlock> logs_;
  std::vector<StateBlock> loaded_logs_;
  std::int64_t loaded_length_ = 0;
};

/// Inputs: the reduced (K, V) of the batches that enter, as Keyed records, in order of time; input i has batch time
/// T - (inputs - 1 - i) * step. Output: nothing; the window's content is its snapshot.
template <class K, class V, class F, class Inverse>
class WindowStateKernel : public ZipKernel {
  using State = WindowState<K, V>;
  using Group = typename State::Group;
  using Entry = typename State::Entry;
  using Change = typename State::Change;
  using Delta = typename State::Delta;

 public:
  WindowStateKernel(StateOf<State> state, std::int64_t length, std::int64_t step, Fn<F> f, Fn<Inverse> inverse)
      : state_(std::move(state)), length_(length), step_(step), f_(std::move(f)), inverse_(std::move(inverse)) {}

  std::unique_ptr<ZipInputs> open(const OpenAt& at, std::size_t inputs, Pipe& next) const override {
    if (auto large = large_partition(at, state_.operation)) {
      return std::make_unique<LargeSlideOf<K, V, F, Inverse>>(at, std::move(large), length_, step_, inputs, f_.f,
                                                              inverse_.f, next);
    }
    return std::make_unique<Slide>(*this, at, inputs, next);
  }

 private:
  class Slide : public ZipInputs {
   public:
    Slide(const WindowStateKernel& kernel, const OpenAt& at, std::size_t inputs, Pipe& next)
        : kernel_(kernel),
          at_(at),
          next_(next),
          state_(kernel.state_.at(at)),
          attempt_(state_->begin_attempt()),
          deltas_before_(state_->deltas.size()),
          again_(state_has_batch(at, state_->version)),
          oldest_(at.batch - kernel.length_),
          open_inputs_(inputs) {
      if (!again_) state_->compact_if_worth();
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
      for (std::size_t i = deltas_before_ - left_; i < state.deltas.size(); ++i) state.save(state.deltas[i]);
      for (const EntryAt at : emptied_) {
        if (state.entry(at).batches == 0) state.remove(at);
      }
      state.version = at_.batch;
    }

   private:
    class Entering : public Pipe {
     public:
      Entering(Slide& slide, std::int64_t time) : slide_(slide), delta_{time, {}} {}
      void push(const void* records, std::size_t count) override {
        if (slide_.again_ || delta_.time <= slide_.oldest_) return;  // slide > length: never in the window
        const auto* in = static_cast<const Keyed<K, V>*>(records);
        auto& state = *slide_.state_;
        state.for_each_prefetched(
            count, [in](std::size_t i) { return in[i].hash; },
            [&](std::size_t i) {
              const std::uint32_t g = state.group_of(in[i].hash);
              const std::uint32_t index = state.find_or_insert(slide_.enter(g), in[i].hash, in[i].key);
              delta_.changes.emplace_back(Change{{g, index}, in[i].value});
            });
      }
      void finish() override { slide_.finished(); }

     private:
      friend class Slide;
      Slide& slide_;
      Delta delta_;
    };

    Group& enter(std::uint32_t g) {
      return state_->enter(g, attempt_, [this](std::uint32_t entered) { entered_.push_back(entered); });
    }
    void finished() {
      if (--open_inputs_ > 0) return;
      if (!again_) slide();
      next_.finish();
    }

    // First what leaves is taken out, then what enters is put in, oldest batch first (as Spark).
    void slide() {
      auto& state = *state_;
      try {
        for (const Delta& delta : state.deltas) {
          if (delta.time > oldest_) break;
          ++left_;
          for_each_change(delta, [this](Entry& entry, const Change& change) {
            if (--entry.batches == 0) {
              emptied_.emplace_back(change.at);
            } else {
              entry.value = kernel_.inverse_.f(entry.value, change.value);
            }
          });
        }
        for (auto& entering : entering_) {
          if (entering->delta_.time <= oldest_) continue;
          for_each_change(entering->delta_, [this](Entry& entry, const Change& change) {
            entry.value = entry.batches++ == 0 ? change.value : kernel_.f_.f(entry.value, change.value);
          });
          state.deltas.push_back(std::move(entering->delta_));
        }
      } catch (...) {
        rethrow_at_record(at_, undo_.size());
      }
    }
    template <class Apply>
    void for_each_change(const Delta& delta, const Apply& apply) {
      const std::size_t count = delta.changes.size();
      for (std::size_t i = 0; i < count; ++i) {
        if (i + prefetch_ahead < count) {
          const EntryAt ahead = delta.changes[i + prefetch_ahead].at;
          state_->group(ahead.group).table.prefetch(ahead.index);
        }
        const Change& change = delta.changes[i];
        Group& group = enter(change.at.group);
        Entry& entry = group.table[change.at.index].value;
        if (change.at.index < group.size_before) undo_.emplace_back(Undo{change.at, entry.batches, entry.value});
        apply(entry, change);
        state_->mark(group, change.at.index);
      }
    }
    void undo() {
      auto& state = *state_;
      while (!undo_.empty()) {
        Entry& entry = state.entry(undo_.back().at);
        entry.batches = undo_.back().batches;
        entry.value = std::move(undo_.back().value);
        undo_.pop_back();
      }
      while (state.deltas.size() > deltas_before_) state.deltas.pop_back();
      for (const std::uint32_t g : entered_) state.remove_new(state.group(g));
    }

    struct Undo {
      EntryAt at;
      std::uint32_t batches;
      V value;
    };
    const WindowStateKernel& kernel_;
    const OpenAt at_;
    Pipe& next_;
    const std::shared_ptr<State> state_;
    const std::uint64_t attempt_;
    const std::size_t deltas_before_;
    const bool again_;
    const std::int64_t oldest_;
    bool committed_ = false;
    std::size_t open_inputs_;
    std::size_t left_ = 0;
    std::vector<std::unique_ptr<Entering>> entering_;
    std::vector<std::uint32_t> entered_;
    Dense<EntryAt> emptied_;
    Dense<Undo> undo_;
  };

  StateOf<State> state_;
  std::int64_t length_;
  std::int64_t step_;
  Fn<F> f_;
  Fn<Inverse> inverse_;
};

}  // namespace sluice::detail
