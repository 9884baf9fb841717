#include "sluice/core/arena.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <limits>
#include <mutex>
#include <new>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) static_cast<void>(0)
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) static_cast<void>(0)
#endif

namespace sluice {
namespace {

constexpr std::size_t small_bytes = 4 << 10;
// From here on memory is pooled, on huge pages: what is looked up at random, such as the tables of key groups, would
// otherwise miss the translation buffer at each look-up (measured: 1.4 times the cost of a state update).
constexpr std::size_t pooled_bytes_min = 8 << 10;
constexpr std::size_t middle_bytes = 64 << 10;
constexpr std::size_t large_bytes = 1 << 20;
// Beyond this a segment is mapped and unmapped each time: faults are then spread over much work.
constexpr std::size_t recycled_bytes_max = 16 << 20;
constexpr std::size_t pool_bytes_max = 256 << 20;
constexpr std::size_t page_bytes = 4 << 10;

std::atomic<bool> poison_released = false;

/// Free segments by size: 8 KiB, 16 KiB, ..., 16 MiB. Invariant: held_ is the sum of the sizes in the lists.
class SegmentPool {
 public:
  /// `bytes` is a power of two within the pool's sizes.
  char* take(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    Free*& list = lists_[list_of(bytes)];
    if (list == nullptr) {
      // Small ones are cut from a whole huge page.
      const std::size_t slab_bytes = bytes < huge_page_bytes ? huge_page_bytes : bytes;
      char* const slab = allocate_pages(slab_bytes);
      for (std::size_t at = slab_bytes; at != 0; at -= bytes) push(slab + at - bytes, bytes);
    }
    Free* const taken = list;
    ASAN_UNPOISON_MEMORY_REGION(taken, bytes);
    list = taken->next;
    held_ -= bytes;
    return reinterpret_cast<char*>(taken);
  }

  void put(char* memory, std::size_t bytes) noexcept {
    const std::lock_guard lock(mutex_);
    if (held_ + bytes > pool_bytes_max) {
      free_pages(memory, bytes);
    } else {
      push(memory, bytes);
    }
  }

  std::size_t held() {
    const std::lock_guard lock(mutex_);
    return held_;
  }

 private:
  struct Free {
    Free* next;
  };

  static std::size_t list_of(std::size_t bytes) {
    return static_cast<std::size_t>(std::countr_zero(bytes) - std::countr_zero(pooled_bytes_min));
  }

  void push(char* memory, std::size_t bytes) {
    Free*& list = lists_[list_of(bytes)];
    list = new (memory) Free{list};
    held_ += bytes;
    ASAN_POISON_MEMORY_REGION(memory, bytes);
  }

  std::mutex mutex_;
  std::array<Free*, 12> lists_{};
  std::size_t held_ = 0;
};
static_assert(pooled_bytes_min << 11 == recycled_bytes_max, "one list a power of two");

SegmentPool& pool() {
  // Never destroyed: an arena in a static object may be released after it would have been.
  static SegmentPool& instance = *new SegmentPool;
  return instance;
}

char* take_memory(std::size_t bytes) {
  if (bytes < pooled_bytes_min) return static_cast<char*>(::operator new(bytes));
  return bytes <= recycled_bytes_max ? pool().take(bytes) : allocate_pages(bytes);
}

void give_back(char* memory, std::size_t bytes) noexcept {
  if (poison_released.load(std::memory_order_relaxed)) std::memset(memory, 0xDD, bytes);
  if (bytes < pooled_bytes_min) {
    ::operator delete(memory);
  } else if (bytes <= recycled_bytes_max) {
    pool().put(memory, bytes);
  } else {
    free_pages(memory, bytes);
  }
}

/// 4 KiB, then 64 KiB until there is 1 MiB, then 1 MiB: at most half of what is reserved lies idle.
std::size_t next_segment_bytes(std::size_t reserved_bytes) {
  if (reserved_bytes == 0) return small_bytes;
  return reserved_bytes < large_bytes ? middle_bytes : large_bytes;
}

std::size_t fitting_bytes(std::size_t needed) {
  return needed <= recycled_bytes_max ? std::bit_ceil(needed) : (needed + page_bytes - 1) / page_bytes * page_bytes;
}

}  // namespace

void Arena::set_poison_released(bool on) { poison_released = on; }

std::size_t Arena::pooled_bytes() { return pool().held(); }

detail::PooledMemory::PooledMemory(std::size_t bytes) {
  if (bytes == 0) return;
  size_ = bytes < pooled_bytes_min ? bytes : fitting_bytes(bytes);
  data_ = take_memory(size_);
}

detail::PooledMemory::~PooledMemory() {
  if (data_ != nullptr) give_back(data_, size_);
}

char* Arena::allocate_in_new_segment(std::size_t bytes, std::size_t align) {
  SLUICE_ASSERT(std::has_single_bit(align) && align <= page_bytes);
  const std::size_t around = sizeof(Segment) + align - 1;
  if (bytes > std::numeric_limits<std::size_t>::max() / 2) throw std::bad_alloc();
  const std::size_t needed = bytes + around;
  std::size_t segment_bytes = next_segment_bytes(reserved_bytes_);
  if (needed > segment_bytes) segment_bytes = std::max(middle_bytes, fitting_bytes(needed));

  char* const memory = take_memory(segment_bytes);
  segments_ = new (memory) Segment{segments_, segment_bytes};
  reserved_bytes_ += segment_bytes;
  bytes_ += bytes;
  char* const start = memory + sizeof(Segment);
  char* const result = start + ((0 - reinterpret_cast<std::uintptr_t>(start)) & (align - 1));
  char* const after = result + bytes;
  char* const segment_end = memory + segment_bytes;
  // The current segment stays current when more room is left there than in the new one (a large allocation).
  if (cursor_ == nullptr || segment_end - after >= end_ - cursor_) {
    cursor_ = after;
    end_ = segment_end;
  }
  return result;
}

void Arena::release() noexcept {
  for (Segment* segment = segments_; segment != nullptr;) {
    Segment* const next = segment->next;
    give_back(reinterpret_cast<char*>(segment), segment->bytes);
    segment = next;
  }
}

}  // namespace sluice
