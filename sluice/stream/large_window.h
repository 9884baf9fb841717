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

#include "sluice/stream/large_state.h"
#include "sluice/stream/window_state.h"

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

/// Inputs and output as WindowStateKernel.
template <class K, class V, class F, class Inverse>
class LargeWindowKernel : public ZipKernel {
  using Value = typename WindowContent<V>::Value;

 public:
  LargeWindowKernel(std::uint64_t operation, std::int64_t length, std::int64_t step, Fn<F> f, Fn<Inverse> inverse)
      : operation_(operation), length_(length), step_(step), f_(std::move(f)), inverse_(std::move(inverse)) {}

  std::unique_ptr<ZipInputs> open(const OpenAt& at, std::size_t inputs, Pipe& next) const override {
    return std::make_unique<Slide>(*this, at, inputs, next);
  }

  static std::shared_ptr<StatePartition> make_partition(const std::shared_ptr<LargeState>& whole, std::size_t partition,
                                                        std::size_t partitions, std::uint64_t seed) {
    return std::make_shared<LargeWindowPartition>(
        whole, partition, partitions, seed,
        [](std::string_view bytes, std::uint64_t of_seed) {
          typename KeyTraits<K>::Scratch scratch;
          const K key = read_key(bytes);
          return key_group(KeyTraits<K>::hash(KeyTraits<K>::probe(key, scratch), of_seed));
        },
        [](Decoder& in) { static_cast<void>(is_plain_v<V> ? in.bytes(sizeof(V)) : in.text()); });
  }

 private:
  static V load_value(Decoder& in) {
    if constexpr (is_plain_v<V>) {
      return decode<V>(in);
    } else {
      Decoder value(in.text());
      V loaded = decode<V>(value);
      value.expect_end();
      return loaded;
    }
  }
  static K read_key(std::string_view bytes) {
    if constexpr (is_text_key_v<K>) {
      return K(bytes);
    } else {
      Decoder in({bytes.data(), bytes.size()});
      K key = decode<K>(in);
      in.expect_end();
      return key;
    }
  }

  class Slide final : public LargeSlide {
   public:
    Slide(const LargeWindowKernel& kernel, const OpenAt& at, std::size_t inputs, Pipe& next)
        : LargeSlide(at, std::static_pointer_cast<LargeWindowPartition>(large_partition(at, kernel.operation_)),
                     kernel.length_, kernel.step_, inputs, next),
          kernel_(kernel),
          schema_(state().whole->schema_now()),
          reader_(*state().whole) {
      for (std::size_t i = 0; i < inputs; ++i) entering_.push_back(std::make_unique<Entering>(*this, i));
    }
    Pipe& input(std::size_t index) override { return *entering_[index]; }

   private:
    class Entering final : public Pipe {
     public:
      Entering(Slide& slide, std::size_t input) : slide_(slide), input_(input) {}
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
      Slide& slide_;
      const std::size_t input_;
    };

    bool slide_key(std::optional<std::string_view> before, std::span<const Touch> touches, Encoder& after) override {
      Value sum{};
      if (before.has_value()) sum = reader_.read(*before);
      for (const Touch& touch : touches) {
        Decoder in(value_of(touch));
        V value = load_value(in);
        if (leaves(touch) && sum.second == 0) in.fail_corrupt("a batch of a window has a key that the window has not");
        try {
          if (!leaves(touch)) {
            sum.first = sum.second++ == 0 ? std::move(value) : kernel_.f_.f(sum.first, value);
          } else if (--sum.second > 0) {
            sum.first = kernel_.inverse_.f(sum.first, value);
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

    friend class Entering;
    const LargeWindowKernel& kernel_;
    const std::uint64_t schema_;
    const LargeReader<Value> reader_;
    std::vector<std::unique_ptr<Entering>> entering_;
    std::uint64_t calls_ = 0;
  };

  std::uint64_t operation_;
  std::int64_t length_;
  std::int64_t step_;
  Fn<F> f_;
  Fn<Inverse> inverse_;
};

}  // namespace sluice::detail
