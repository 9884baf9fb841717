// A bump allocator: what batches keep their bytes in.
//
//     sluice::Arena arena;
//     std::string_view kept = arena.copy(line);   // lives as long as the arena
//
// Bytes are written once, right after they were allocated, and never change; they go all at once. Memory of 64 KiB and
// more comes from a process-wide pool and goes back to it, because the page faults of freshly mapped memory cost more
// than what is written there.
//
// Threads: an arena belongs to one thread while it is written; any number may read what is written. The pool is safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>

namespace sluice {

class Arena {
 public:
  /// Takes no memory before the first allocation.
  Arena() = default;
  Arena(Arena&& other) noexcept { swap(other); }
  Arena& operator=(Arena&& other) noexcept {
    if (this != &other) {
      clear();
      swap(other);
    }
    return *this;
  }
  ~Arena() { release(); }

  /// `bytes` bytes, aligned to `align` (a power of two, at most 4096), not set to anything. They stay where they are
  /// until `clear()` or the end of the arena, also when the arena is moved. Never null, even for 0 bytes.
  ///
  /// Errors: std::bad_alloc.
  char* allocate(std::size_t bytes, std::size_t align = 8) {
    const auto at = reinterpret_cast<std::uintptr_t>(cursor_);
    const std::size_t skip = (0 - at) & (align - 1);
    const auto room = static_cast<std::size_t>(end_ - cursor_);
    if (cursor_ == nullptr || skip > room || bytes > room - skip) return allocate_in_new_segment(bytes, align);
    char* const result = cursor_ + skip;
    cursor_ = result + bytes;
    bytes_ += bytes;
    return result;
  }

  /// Copies `text` here. An empty one takes nothing and gives a view of a constant.
  std::string_view copy(std::string_view text) {
    if (text.empty()) return std::string_view("", 0);
    char* const to = allocate(text.size(), 1);
    std::memcpy(to, text.data(), text.size());
    return {to, text.size()};
  }

  /// What `allocate` was asked for.
  std::size_t bytes() const { return bytes_; }
  /// What is taken from the system for it.
  std::size_t reserved_bytes() const { return reserved_bytes_; }

  /// Gives all memory back; everything allocated here is gone.
  void clear() noexcept {
    release();
    segments_ = nullptr;
    cursor_ = end_ = nullptr;
    bytes_ = reserved_bytes_ = 0;
  }

  void swap(Arena& other) noexcept {
    std::swap(segments_, other.segments_);
    std::swap(cursor_, other.cursor_);
    std::swap(end_, other.end_);
    std::swap(bytes_, other.bytes_);
    std::swap(reserved_bytes_, other.reserved_bytes_);
  }

  /// For tests: memory given back is filled with 0xDD, so that a view that outlived its arena is seen. Process-wide,
  /// off by default. (Under AddressSanitizer memory in the pool may not be touched at all, with or without this.)
  static void set_poison_released(bool on);
  /// What the pool holds now, to be used again: at most 256 MiB.
  static std::size_t pooled_bytes();

 private:
  /// At the start of each segment, so that an arena needs no list of its own.
  struct Segment {
    Segment* next;
    std::size_t bytes;  // with this header
  };

  char* allocate_in_new_segment(std::size_t bytes, std::size_t align);
  void release() noexcept;

  Segment* segments_ = nullptr;
  char* cursor_ = nullptr;
  char* end_ = nullptr;
  std::size_t bytes_ = 0;
  std::size_t reserved_bytes_ = 0;
};

namespace detail {

/// Memory of the same pool for those who grow arrays (buffer.h): at least `bytes`, perhaps more, aligned to 16 at
/// least.
class PooledMemory {
 public:
  PooledMemory() = default;
  explicit PooledMemory(std::size_t bytes);
  PooledMemory(PooledMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  PooledMemory& operator=(PooledMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~PooledMemory();

  char* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  char* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace detail

}  // namespace sluice
