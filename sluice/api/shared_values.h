// Values that tasks share: read-only ones, sums, and what is made once a process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "sluice/core/closure.h"
#include "sluice/core/shared_values.h"
#include "sluice/core/task.h"

namespace sluice {
/// A read-only value that functions in tasks may use: capture the Broadcast by value and use `*b` or `b->`.
/// Lives until the process ends. On a cluster T needs a codec (else SLU-110 at its first use), and each executor gets
/// the value once, when it first uses it. Threads: the value is read by many at once. Cost of a use: a look-up of some
/// 10 ns; take a reference outside loops.
template <class T>
class Broadcast {
 public:
  const T& operator*() const { return *static_cast<const T*>(detail::shared_value(id_)); }
  const T* operator->() const { return &**this; }

  /// Use Context::broadcast.
  static Broadcast make(T value) {
    Broadcast made;
    detail::SharedCodec travels;
    if constexpr (Encodable<T> && !has_views_v<T>) {
      travels.encode = [](const void* shared, Encoder& out) { encode(*static_cast<const T*>(shared), out); };
      travels.decode = [](Decoder& in) -> std::shared_ptr<const void> {
        return std::make_shared<const T>(decode<T>(in));
      };
    }
    made.id_ = detail::share_value(std::make_shared<const T>(std::move(value)), travels);
    return made;
  }

 private:
  std::uint64_t id_ = 0;
};

/// A sum that functions in tasks add to: capture it by value and call `add`. Each successful task counts once, however
/// often it was tried; a task that runs again in a later job (a transformation computed twice) counts again (RD-10).
class Accumulator {
 public:
  explicit Accumulator(std::uint64_t id) : id_(id) {}
  /// Inside a task only.
  void add(std::int64_t amount) const {
    detail::TaskContext* task = detail::TaskContext::current();
    SLUICE_ASSERT(task != nullptr);
    task->add(id_, amount);
  }
  std::uint64_t id() const { return id_; }

 private:
  std::uint64_t id_;
};

/// Something that cannot be copied to where tasks run (a model, a parser, a connection), made there by a factory at its
/// first use, once a process. Capture it by value and call `get()`.
///
///     auto model = sluice::per_process<Model>([] { return Model::load("m.bin"); });
///     stream.map([model](Features f) { return model.get().score(f); });
///
/// Threads: one object for all tasks of the process, used by several at once: T must allow that.
template <class T, class F>
class PerProcess {
 public:
  explicit PerProcess(F factory) : factory_(std::move(factory)) { detail::check_function_type<F>(); }
  T& get() const {
    if constexpr (std::is_empty_v<F>) {
      static T& object = *new T(factory_());
      return object;
    } else {
      static const char type = 0;
      return *static_cast<T*>(detail::per_process_object(
          &type, {reinterpret_cast<const char*>(&factory_), sizeof(F)},
          [this]() -> std::shared_ptr<void> { return std::shared_ptr<T>(new T(factory_())); }));
    }
  }
  T& operator*() const { return get(); }
  T* operator->() const { return &get(); }

 private:
  F factory_;
};

/// See PerProcess.
template <class T, class F>
PerProcess<T, F> per_process(F factory) {
  return PerProcess<T, F>(std::move(factory));
}

}  // namespace sluice
