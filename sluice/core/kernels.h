// Kernels of the narrow operators: loops over chunks with the user's function inside.
//
// Steps work record by record and may be chained without a buffer between them (`apply`); folds see a whole partition
// and give something at its end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include "sluice/core/steps.h"
#include "sluice/core/task.h"
#include "sluice/runtime/fiber.h"

namespace sluice::detail {

/// Runs a step over each record: map, filter, flat_map and their chains.
template <class T, class U, class Step>
class StepKernel : public Kernel {
 public:
  explicit StepKernel(Fn<Step> step) : step_(std::move(step)) {}

  std::unique_ptr<Pipe> open(const OpenAt& at, Pipe& next) const override {
    return std::make_unique<StepPipe>(step_.f, at, next);
  }

 private:
  class StepPipe : public Pipe {
   public:
    StepPipe(const Step& step, const OpenAt& at, Pipe& next) : step_(step), at_(at), out_(next) {}

    void push(const void* records, std::size_t count) override {
      const T* in = static_cast<const T*>(records);
      typename ChunkBuffer<U>::Cursor cursor(out_);
      std::size_t i = 0;
      try {
        const auto emit = [&cursor](auto&&... parts) { cursor.emplace(std::forward<decltype(parts)>(parts)...); };
        for (; i < count; ++i) step_(in[i], emit);
        cursor.flush();
      } catch (...) {
        rethrow_at_record(at_, done_ + i);
      }
      done_ += count;
    }
    void finish() override { out_.next().finish(); }
    bool full() const override { return out_.next().full(); }

   private:
    const Step& step_;
    const OpenAt at_;
    std::uint64_t done_ = 0;
    ChunkBuffer<U> out_;
  };

  Fn<Step> step_;
};

/// Folds a partition: `Fold` is made for each attempt from `Parts`, gets all chunks, and emits at the end.
///
///     struct Fold {
///       Fold(const Parts&...);
///       void add(const T* records, std::size_t count);   // may rest records, keeps nothing else
///       template <class Emit> void end(Emit&& emit);
///       bool full() const;                               // optional
///     };
template <class T, class U, class Fold, class... Parts>
class FoldKernel : public Kernel {
 public:
  explicit FoldKernel(Parts... parts) : parts_(std::move(parts)...) {}

  std::unique_ptr<Pipe> open(const OpenAt& at, Pipe& next) const override {
    return std::make_unique<FoldPipe>(parts_, at, next);
  }

 private:
  class FoldPipe : public Pipe {
   public:
    FoldPipe(const std::tuple<Parts...>& parts, const OpenAt& at, Pipe& next)
        : at_(at), next_(next), fold_(std::make_from_tuple<Fold>(parts)) {}

    void push(const void* records, std::size_t count) override {
      try {
        fold_.add(static_cast<const T*>(records), count);
      } catch (...) {
        rethrow_at_record(at_, done_);
      }
      done_ += count;
    }
    void finish() override {
      try {
        ChunkBuffer<U> out(next_);
        typename ChunkBuffer<U>::Cursor cursor(out);
        fold_.end([&cursor](auto&&... parts) { cursor.emplace(std::forward<decltype(parts)>(parts)...); });
        cursor.flush();
      } catch (...) {
        rethrow_at_record(at_, done_);
      }
      next_.finish();
    }
    bool full() const override {
      if constexpr (requires { fold_.full(); }) {
        return fold_.full();
      } else {
        return next_.full();
      }
    }

   private:
    const OpenAt at_;
    Pipe& next_;
    std::uint64_t done_ = 0;
    Fold fold_;
  };

  std::tuple<Parts...> parts_;
};

}  // namespace sluice::detail

namespace sluice {
namespace detail {
template <class T, class U, class F>
class PartitionKernel;
}  // namespace detail

/// The records of one partition, in order, to be walked through once: `for (const T& record : partition)`.
///
/// Lifetime: a record and its views live until the next one is asked for; copy what you keep (std::string of a view).
template <class T>
class Partition {
 public:
  class Iterator {
   public:
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    Iterator() = default;
    const T& operator*() const { return partition_->records_[partition_->next_]; }
    Iterator& operator++() {
      ++partition_->next_;
      return *this;
    }
    void operator++(int) { ++*this; }
    bool at_end() const { return !partition_->more(); }
    friend bool operator==(const Iterator& it, std::default_sentinel_t) { return it.at_end(); }

   private:
    friend class Partition;
    explicit Iterator(Partition* partition) : partition_(partition) {}
    Partition* partition_ = nullptr;
  };

  Iterator begin() { return Iterator(this); }
  std::default_sentinel_t end() { return {}; }

  /// Number of this partition.
  std::size_t index() const { return index_; }
  /// Which attempt of the task this is, from 0. Together with batch time and index it identifies an output.
  std::uint32_t attempt() const { return attempt_; }
  /// Time of the batch; the epoch outside a stream.
  Time batch_time() const { return batch_; }

  /// For the engine: see PartitionKernel.
  Partition(std::size_t index, std::uint32_t attempt, Time batch) : index_(index), attempt_(attempt), batch_(batch) {}
  Partition(const Partition&) = delete;
  Partition& operator=(const Partition&) = delete;

 private:
  template <class, class, class>
  friend class detail::PartitionKernel;

  // The function runs in a fiber; when a chunk is used up it yields until the next one is pushed.
  bool more() {
    while (next_ == count_) {
      if (abandoned_) throw Error(Code::task_cancelled, {.why = "the attempt failed elsewhere"});
      if (ended_) return false;
      detail::Fiber::yield();
    }
    return true;
  }

  const T* records_ = nullptr;
  std::size_t next_ = 0;
  std::size_t count_ = 0;
  bool ended_ = false;
  bool abandoned_ = false;
  std::size_t index_;
  std::uint32_t attempt_;
  Time batch_;
};

}  // namespace sluice

namespace sluice::detail {

/// Runs a function once over a whole partition (map_partitions, foreach_partition): the function pulls what the pipe
/// pushes, from a fiber of its own. `F` takes (Partition<T>&, emit).
template <class T, class U, class F>
class PartitionKernel : public Kernel {
 public:
  explicit PartitionKernel(Fn<F> f) : f_(std::move(f)) {}

  std::unique_ptr<Pipe> open(const OpenAt& at, Pipe& next) const override {
    return std::make_unique<PartitionPipe>(f_.f, at, next);
  }

 private:
  class PartitionPipe : public Pipe {
   public:
    PartitionPipe(const F& f, const OpenAt& at, Pipe& next)
        : at_(at),
          out_(next),
          partition_(at.partition, at.task.id().attempt, at.task.batch_time()),
          fiber_([this, &f] { run(f); }, 256 << 10) {}
    // A function that was stopped in the middle (the attempt failed elsewhere) is unwound by an exception, so that it
    // gives back what it holds and does not take the records so far for all of them.
    ~PartitionPipe() override {
      partition_.abandoned_ = true;
      while (started_ && !fiber_.done()) {
        try {
          fiber_.resume();
        } catch (...) {
          // The attempt has already failed with an error of its own, which is the one to report.
          partition_.count_ = partition_.next_ = 0;
        }
      }
    }

    void push(const void* records, std::size_t count) override {
      partition_.records_ = static_cast<const T*>(records);
      partition_.next_ = 0;
      partition_.count_ = count;
      resume();
      done_ += count;
    }
    void finish() override {
      partition_.count_ = partition_.next_ = 0;
      partition_.ended_ = true;
      resume();
      out_.next().finish();
    }
    bool full() const override { return fiber_.done() || out_.next().full(); }

   private:
    void run(const F& f) {
      Fiber::local() = &at_.task;
      typename ChunkBuffer<U>::Cursor cursor(out_);
      f(partition_, [&](auto&&... parts) { cursor.emplace(std::forward<decltype(parts)>(parts)...); });
      cursor.flush();
    }
    void resume() {
      if (fiber_.done()) return;
      started_ = true;
      try {
        fiber_.resume();
      } catch (...) {
        rethrow_at_record(at_, done_ + partition_.next_);
      }
    }

    const OpenAt at_;
    ChunkBuffer<U> out_;
    Partition<T> partition_;
    std::uint64_t done_ = 0;
    bool started_ = false;
    Fiber fiber_;
  };

  Fn<F> f_;
};

}  // namespace sluice::detail
