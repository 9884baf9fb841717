// The input of the benchmarks: made in process, the same at every run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "sluice/runtime/memory.h"

namespace bench {

/// One step of the splitmix64 generator from state `z`.
inline std::uint64_t splitmix64(std::uint64_t z) {
  z += 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

/// Memory in huge pages, zeroed.
class Pages {
 public:
  Pages() = default;
  explicit Pages(std::size_t bytes)
      : bytes_((bytes + sluice::huge_page_bytes - 1) / sluice::huge_page_bytes * sluice::huge_page_bytes),
        data_(sluice::allocate_pages(bytes_), [size = bytes_](char* pages) { sluice::free_pages(pages, size); }) {}
  char* data() const { return data_.get(); }
  const std::shared_ptr<char>& owner() const { return data_; }

 private:
  std::size_t bytes_ = 0;
  std::shared_ptr<char> data_;
};

/// Lines of 99 letters and blanks and a newline: words by Zipf's law (exponent 1) from a vocabulary of 100,000, some
/// 15.5 a line; 1.2 % of the lines hold the word `needle`.
struct TextData {
  static constexpr std::size_t line_bytes = 100;
  static constexpr std::string_view needle = "needle";

  TextData(std::size_t batches, std::size_t lines_a_batch, std::size_t slices);

  std::size_t lines_a_batch;
  Pages pages;
  /// By batch, by slice: one slice a thread or partition.
  std::vector<std::vector<std::string_view>> slices;
};

/// A keyed event.
struct Event {
  std::uint64_t key;
  std::int64_t value;
};

/// Events with keys evenly from 0..keys-1.
struct EventData {
  EventData(std::size_t batches, std::size_t events_a_batch, std::uint64_t keys);

  const Event* batch(std::size_t number) const {
    return reinterpret_cast<const Event*>(pages.data()) + number * events_a_batch;
  }

  std::size_t batches;
  std::size_t events_a_batch;
  std::uint64_t keys;
  Pages pages;
  /// Different keys in each batch, and in all batches up to it.
  std::vector<std::int64_t> keys_in_batch;
  std::vector<std::int64_t> keys_so_far;
};

}  // namespace bench
