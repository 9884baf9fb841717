// Windows with an inverse whose sums and batches outgrow memory: WindowState over a LargeState.
//
// Beside the sums, which lie in the database as states of update_state_by_key do, there is what each batch brought in,
// until it leaves the window: keys ff fe, batch time (8 bytes, the larger first), key group, key. So what leaves is a
// range of keys, and a slide costs what enters and leaves it, wherever it lies. (Format: docs/formats.md, "State in
// RocksDB".)
//
// In memory lies what one slide touches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/stream/keyed_state.h"
#include "sluice/stream/large_state.h"

namespace sluice::detail {

/// A partition's part of a window. Batches that a checkpoint in memory has are taken up, too.
class LargeWindowPartition : public LargePartition {
 public:
  using GroupOf = std::uint32_t (*)(std::string_view key, std::uint64_t seed);
  /// Goes over a value, as save_value has written it.
  using SkipValue = void (*)(Decoder& in);

  LargeWindowPartition(std::shared_ptr<LargeState> whole, std::size_t partition, std::size_t partitions,
                       std::uint64_t seed, GroupOf group_of, SkipValue skip_value)
      : LargePartition(std::move(whole), partition, partitions),
        seed_(seed),
        group_of_(group_of),
        skip_value_(skip_value) {}

  /// Times of the batches in the window that brought in a key of this partition, oldest first.
  std::deque<std::int64_t> times;

  void load(const StateBlock& block, const StateSchema& written) override;
  void loaded(std::int64_t batch) override;

  /// Keys and values that this batch brought in.
  LargeScan scan_batch(std::int64_t time);

 private:
  void find_times();

  const std::uint64_t seed_;
  const GroupOf group_of_;
  const SkipValue skip_value_;
  std::vector<StateBlock> loaded_logs_;
  std::uint32_t loaded_key_bytes_ = 0;
  std::int64_t loaded_length_ = 0;
};

/// What read_snapshot gives of a window's batches, as blocks of logs.
void read_window_logs(StateDatabase& database, const StateSchema& written,
                      const std::function<void(const StateBlock&, const StateSchema&)>& f);

/// What is the same for all types in the slide of a window: see WindowStateKernel, whose twin it is.
class LargeSlide : public ZipInputs {
 public:
  LargeSlide(const OpenAt& at, std::shared_ptr<LargeWindowPartition> state, std::int64_t length, std::int64_t step,
             std::size_t inputs, Pipe& next);
  ~LargeSlide() override;
  void commit() override;

 protected:
  /// What a batch has of a key.
  struct Touch {
    std::uint64_t at;  // in bytes_: the key, with its group, then the value
    std::uint32_t key_bytes;
    std::uint32_t value_bytes;
    std::uint32_t batch;  // in batches_
  };
  const OpenAt& at() const { return at_; }
  LargeWindowPartition& state() { return *state_; }
  /// Whether what this input gives is never in the window, or was there before.
  bool skips(std::size_t input) const;
  void add(std::size_t input, std::uint32_t group, std::string_view key, std::string_view value);
  void input_finished();

  /// The sum of a key after what leaves and enters, in this order; what it was, if the window had the key. False: the
  /// window does not have it any more.
  virtual bool slide_key(std::optional<std::string_view> before, std::span<const Touch> touches, Encoder& after) = 0;
  std::string_view value_of(const Touch& touch) const {
    return std::string_view(bytes_).substr(touch.at + touch.key_bytes, touch.value_bytes);
  }
  bool leaves(const Touch& touch) const { return batches_[touch.batch].leaves; }

 private:
  struct Batch {
    std::int64_t time;
    bool leaves;
    bool has_keys = false;
  };
  std::string_view key_of(const Touch& touch) const {
    return std::string_view(bytes_).substr(touch.at, touch.key_bytes);
  }
  void touch(std::size_t batch, std::string_view prefix, std::string_view key, std::string_view value);
  void take_what_leaves();
  void slide();
  void change_sums();
  void change_batches();

  const OpenAt at_;
  const std::shared_ptr<LargeWindowPartition> state_;
  const bool again_;
  const std::int64_t oldest_;
  Pipe& next_;
  std::size_t open_inputs_;
  std::size_t first_entering_;  // in batches_
  std::vector<Batch> batches_;  // oldest first
  std::string bytes_;
  std::vector<Touch> touches_;
  std::shared_ptr<ChangeSet> changes_;
};

/// The partition's part, for keys and values of these types.
template <class K, class V>
std::shared_ptr<LargeWindowPartition> make_large_window(const std::shared_ptr<LargeState>& whole, std::size_t partition,
                                                        std::size_t partitions, std::uint64_t seed) {
  return std::make_shared<LargeWindowPartition>(
      whole, partition, partitions, seed,
      [](std::string_view bytes, std::uint64_t of_seed) {
        typename KeyTraits<K>::Scratch scratch;
        const K key = key_of_bytes<K>(bytes);
        return key_group(KeyTraits<K>::hash(KeyTraits<K>::probe(key, scratch), of_seed));
      },
      [](Decoder& in) { static_cast<void>(is_plain_v<V> ? in.bytes(sizeof(V)) : in.text()); });
}

/// What WindowStateKernel opens over a LargeWindowPartition.
template <class K, class V, class F, class Inverse>
class LargeSlideOf final : public LargeSlide {
  /// As WindowContent has it.
  using Value = std::pair<V, std::uint32_t>;

 public:
  /// `f` and `inverse` must outlive it.
  LargeSlideOf(const OpenAt& at, std::shared_ptr<LargePartition> state, std::int64_t length, std::int64_t step,
               std::size_t inputs, const F& f, const Inverse& inverse, Pipe& next)
      : LargeSlide(at, std::static_pointer_cast<LargeWindowPartition>(std::move(state)), length, step, inputs, next),
        f_(f),
        inverse_(inverse),
        schema_(this->state().whole->schema_now()),
        reader_(*this->state().whole) {
    for (std::size_t i = 0; i < inputs; ++i) entering_.push_back(std::make_unique<Entering>(*this, i));
  }
  Pipe& input(std::size_t index) override { return *entering_[index]; }

 private:
  class Entering final : public Pipe {
   public:
    Entering(LargeSlideOf& slide, std::size_t input) : slide_(slide), input_(input) {}
    void push(const void* records, std::size_t count) override {
      if (slide_.skips(input_)) return;
      const auto* in = static_cast<const Keyed<K, V>*>(records);
      Encoder value;
      for (std::size_t i = 0; i < count; ++i) {
        value.clear();
        save_value(in[i].value, value);
        slide_.add(input_, key_group(in[i].hash), key_bytes<K>(in[i].key), value.view());
      }
    }
    void finish() override { slide_.input_finished(); }

   private:
    LargeSlideOf& slide_;
    const std::size_t input_;
  };

  bool slide_key(std::optional<std::string_view> before, std::span<const Touch> touches, Encoder& after) override {
    Value sum{};
    if (before.has_value()) sum = reader_.read(*before);
    for (const Touch& touch : touches) {
      Decoder in(value_of(touch));
      V value = load_value<V>(in);
      if (leaves(touch) && sum.second == 0) in.fail_corrupt("a batch of a window has a key that the window has not");
      try {
        if (!leaves(touch)) {
          sum.first = sum.second++ == 0 ? std::move(value) : f_(sum.first, value);
        } else if (--sum.second > 0) {
          sum.first = inverse_(sum.first, value);
        }
      } catch (...) {
        rethrow_at_record(at(), calls_);
      }
      ++calls_;
    }
    if (sum.second == 0) return false;
    after.varint(schema_);
    encode(sum, after);
    return true;
  }

  const F& f_;
  const Inverse& inverse_;
  const std::uint64_t schema_;
  const LargeReader<Value> reader_;
  std::vector<std::unique_ptr<Entering>> entering_;
  std::uint64_t calls_ = 0;
};

}  // namespace sluice::detail
