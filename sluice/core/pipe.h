// Pipes: how records flow through the operators of one task.
//
// Invariants:
//  P1. A chunk's records, and what their views point to, live until `push` returns. Who wants to keep records copies
//      them to rest (arena.h, codec.h).
//  P2. An operator hands on everything that came out of a chunk before its own `push` returns. So views into chunks
//      made upstream stay valid downstream, and nobody buffers but at rest.
//  P3. `finish` is called exactly once, after the last push, unless the attempt failed.
//  P4. One thread runs a task; pipes need no locks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "sluice/core/arena.h"
#include "sluice/runtime/clock.h"
#include "sluice/runtime/errors.h"

namespace sluice::detail {

/// What the user calls an operator and where it was declared. Shared by its nodes.
struct OperatorInfo {
  std::string name;
  Place where;
  /// The user has given the name, which then is the operator's identity in checkpoints.
  bool named = false;
  /// Names it had in earlier versions of the program.
  std::vector<std::string> aliases{};

  /// It has that name, or had it.
  bool is_called(const std::string& name_or_alias) const {
    return name == name_or_alias || std::find(aliases.begin(), aliases.end(), name_or_alias) != aliases.end();
  }
};

/// Bytes of records that fit a chunk buffer: small enough to stay in the first-level cache with its neighbours.
inline constexpr std::size_t chunk_bytes = 16 << 10;
inline constexpr std::size_t chunk_records_max = 1024;

template <class T>
inline constexpr std::size_t chunk_records = chunk_bytes / sizeof(T) > chunk_records_max ? chunk_records_max
                                             : chunk_bytes / sizeof(T) < 8               ? 8
                                                                                         : chunk_bytes / sizeof(T);

/// One operator of one task attempt. Records are of the type the graph says; `records` points to `count` of them.
class Pipe {
 public:
  Pipe() = default;
  virtual ~Pipe() = default;
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  virtual void push(const void* records, std::size_t count) = 0;
  virtual void finish() = 0;
  /// True when nothing more is wanted, so that a source may stop early. `finish` is called all the same.
  virtual bool full() const { return false; }
  /// True when what is pushed is not looked at, so that it need not be made. The same from the first call on.
  virtual bool ignores_records() const { return false; }
};

/// A pipe's own output buffer. Records are made through a Cursor, whose position the compiler keeps in registers.
template <class T>
class ChunkBuffer {
 public:
  explicit ChunkBuffer(Pipe& next) : next_(next) {}
  ChunkBuffer(const ChunkBuffer&) = delete;
  ChunkBuffer& operator=(const ChunkBuffer&) = delete;
  Pipe& next() { return next_; }
  const Pipe& next() const { return next_; }

  /// One at a time; it ends empty, or destroys what was not handed on.
  class Cursor {
   public:
    explicit Cursor(ChunkBuffer& buffer)
        : next_(buffer.next_),
          begin_(std::launder(reinterpret_cast<T*>(buffer.storage_.get()))),
          at_(begin_),
          end_(begin_ + chunk_records<T>) {}
    ~Cursor() { destroy(); }
    Cursor(const Cursor&) = delete;
    Cursor& operator=(const Cursor&) = delete;

    template <class... Args>
    void emplace(Args&&... args) {
      ::new (static_cast<void*>(at_)) T(std::forward<Args>(args)...);
      if (++at_ == end_) [[unlikely]] {
        flush();
      }
    }
    void flush() {
      if (at_ == begin_) return;
      next_.push(begin_, static_cast<std::size_t>(at_ - begin_));
      destroy();
      at_ = begin_;
    }

   private:
    void destroy() {
      if constexpr (!std::is_trivially_destructible_v<T>) {
        for (T* record = begin_; record != at_; ++record) record->~T();
      }
    }
    Pipe& next_;
    T* begin_;
    T* at_;
    T* end_;
  };

 private:
  struct alignas(T) Slot {
    unsigned char bytes[sizeof(T)];
  };

  Pipe& next_;
  std::unique_ptr<Slot[]> storage_ = std::make_unique_for_overwrite<Slot[]>(chunk_records<T>);
};

}  // namespace sluice::detail
