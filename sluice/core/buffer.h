// Large buffers that are used again.
//
// Memory fresh from the system costs a page fault for each 4 KiB, more than filling it (measured: 2 ms for the 12 MB
// that a batch of 500,000 events shuffles, out of 5 ms). So buffers of 64 KiB and more come from, and go back to, the
// pool of the arenas.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "sluice/core/arena.h"

namespace sluice::detail {

/// An array of trivial `T` of fixed size, not initialized.
template <class T>
class RawArray {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  RawArray() = default;
  explicit RawArray(std::size_t size) : memory_(size * sizeof(T)), size_(size) {}
  T* data() { return reinterpret_cast<T*>(memory_.data()); }
  const T* data() const { return reinterpret_cast<const T*>(memory_.data()); }
  std::size_t size() const { return size_; }
  std::size_t bytes() const { return memory_.size(); }
  void zero() {
    if (size_ != 0) std::memset(memory_.data(), 0, size_ * sizeof(T));
  }

 private:
  PooledMemory memory_;
  std::size_t size_ = 0;
};

/// A growing array, like std::vector, on pooled memory. Growth is a memcpy where `T` allows it.
template <class T>
class Dense {
 public:
  Dense() = default;
  Dense(Dense&& other) noexcept : memory_(std::move(other.memory_)), size_(std::exchange(other.size_, 0)) {}
  Dense& operator=(Dense&& other) noexcept {
    if (this != &other) {
      clear();
      memory_ = std::move(other.memory_);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  ~Dense() { clear(); }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::size_t capacity() const { return memory_.size() / sizeof(T); }
  std::size_t bytes() const { return memory_.size(); }
  T* begin() { return reinterpret_cast<T*>(memory_.data()); }
  T* end() { return begin() + size_; }
  const T* begin() const { return reinterpret_cast<const T*>(memory_.data()); }
  const T* end() const { return begin() + size_; }
  T& operator[](std::size_t i) { return begin()[i]; }
  const T& operator[](std::size_t i) const { return begin()[i]; }
  T& back() { return begin()[size_ - 1]; }

  template <class... Args>
  T& emplace_back(Args&&... args) {
    if (size_ == capacity()) reserve(size_ < 8 ? 16 : size_ * 2);
    T* made = ::new (static_cast<void*>(begin() + size_)) T(std::forward<Args>(args)...);
    ++size_;
    return *made;
  }
  void pop_back() { begin()[--size_].~T(); }
  void append(const T* from, std::size_t count) {
    if (size_ + count > capacity()) reserve(size_ + count > size_ * 2 ? size_ + count : size_ * 2);
    std::uninitialized_copy_n(from, count, begin() + size_);
    size_ += count;
  }
  void reserve(std::size_t count) {
    if (count <= capacity()) return;
    PooledMemory wider(count * sizeof(T));
    T* to = reinterpret_cast<T*>(wider.data());
    if constexpr (std::is_trivially_copyable_v<T>) {
      if (size_ != 0) std::memcpy(static_cast<void*>(to), memory_.data(), size_ * sizeof(T));
    } else {
      std::uninitialized_move_n(begin(), size_, to);
      std::destroy_n(begin(), size_);
    }
    memory_ = std::move(wider);
  }
  void clear() {
    if constexpr (!std::is_trivially_destructible_v<T>) std::destroy_n(begin(), size_);
    size_ = 0;
  }

 private:
  PooledMemory memory_;
  std::size_t size_ = 0;
};

}  // namespace sluice::detail
