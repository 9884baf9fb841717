#include "benchmarks/data.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <unordered_set>

namespace bench {
namespace {

class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    const std::uint64_t drawn = splitmix64(state_);
    state_ += 0x9e3779b97f4a7c15ULL;
    return drawn;
  }
  /// In [0, 1).
  double fraction() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

 private:
  std::uint64_t state_;
};

constexpr std::size_t vocabulary_words = 100'000;
constexpr std::size_t needle_rank = 99;
constexpr std::size_t word_bytes_max = 10;

/// Different words of 2 to 10 letters, the most frequent ones short.
std::vector<std::string> make_vocabulary() {
  Numbers numbers(7);
  std::unordered_set<std::string> known{std::string(TextData::needle)};
  std::vector<std::string> words;
  while (words.size() < vocabulary_words) {
    const std::size_t rank = words.size();
    if (rank == needle_rank) {
      words.emplace_back(TextData::needle);
      continue;
    }
    std::string word(rank < 20 ? 2 + rank % 3 : 3 + numbers.next() % 8, ' ');
    for (char& letter : word) letter = static_cast<char>('a' + numbers.next() % 26);
    if (known.insert(word).second) words.push_back(std::move(word));
  }
  return words;
}

/// Draws ranks with probability proportional to 1 / (rank + 1).
class Zipf {
 public:
  explicit Zipf(std::vector<std::uint32_t> ranks) : ranks_(std::move(ranks)) {
    double sum = 0;
    for (const std::uint32_t rank : ranks_) cumulated_.push_back(sum += 1.0 / (rank + 1));
    std::uint32_t first = 0;
    for (std::size_t b = 0; b < first_of_.size(); ++b) {
      while (cumulated_[first] < sum * static_cast<double>(b) / static_cast<double>(first_of_.size())) ++first;
      first_of_[b] = first;
    }
  }
  std::uint32_t draw(Numbers& numbers) const {
    const double fraction = numbers.fraction();
    const double wanted = fraction * cumulated_.back();
    std::uint32_t i = first_of_[static_cast<std::size_t>(fraction * static_cast<double>(first_of_.size()))];
    while (cumulated_[i] < wanted) ++i;
    return ranks_[i];
  }

 private:
  std::vector<std::uint32_t> ranks_;
  std::vector<double> cumulated_;
  std::array<std::uint32_t, 1 << 16> first_of_{};
};

class LineWriter {
 public:
  LineWriter() : words_(make_vocabulary()) {
    std::vector<std::uint32_t> all;
    std::vector<std::vector<std::uint32_t>> by_size(word_bytes_max + 1);
    for (std::uint32_t rank = 0; rank < words_.size(); ++rank) {
      all.push_back(rank);
      by_size[words_[rank].size()].push_back(rank);
    }
    any_.emplace_back(std::move(all));
    for (auto& ranks : by_size) of_size_.push_back(ranks.empty() ? any_[0] : Zipf(std::move(ranks)));
  }

  void write(char* line) {
    char* at = line;
    char* const end = line + TextData::line_bytes - 1;
    const auto put = [&](const Zipf& zipf) {
      const std::string& word = words_[zipf.draw(numbers_)];
      std::memcpy(at, word.data(), word.size());
      at += word.size();
    };
    while (end - at > 13) {
      put(any_[0]);
      *at++ = ' ';
    }
    // One or two words of a fitting size.
    if (end - at > static_cast<std::ptrdiff_t>(word_bytes_max)) {
      put(of_size_[static_cast<std::size_t>(end - at) - 4]);
      *at++ = ' ';
    }
    put(of_size_[static_cast<std::size_t>(end - at)]);
    *at = '\n';
  }

 private:
  std::vector<std::string> words_;
  std::vector<Zipf> any_;
  std::vector<Zipf> of_size_;
  Numbers numbers_{42};
};

}  // namespace

TextData::TextData(std::size_t batches, std::size_t lines, std::size_t slices_a_batch)
    : lines_a_batch(lines), pages(batches * lines * line_bytes) {
  LineWriter writer;
  for (std::size_t line = 0; line < batches * lines; ++line) writer.write(pages.data() + line * line_bytes);
  for (std::size_t b = 0; b < batches; ++b) {
    slices.emplace_back();
    for (std::size_t s = 0; s < slices_a_batch; ++s) {
      const std::size_t first = b * lines + lines * s / slices_a_batch;
      const std::size_t end = b * lines + lines * (s + 1) / slices_a_batch;
      slices[b].emplace_back(pages.data() + first * line_bytes, (end - first) * line_bytes);
    }
  }
}

EventData::EventData(std::size_t batch_count, std::size_t events, std::uint64_t key_count)
    : batches(batch_count), events_a_batch(events), keys(key_count), pages(batch_count * events * sizeof(Event)) {
  auto* all = reinterpret_cast<Event*>(pages.data());
  std::vector<std::uint32_t> last_batch(keys);  // 1 + number of the batch that had the key last
  std::int64_t so_far = 0;
  for (std::size_t b = 0; b < batches; ++b) {
    keys_in_batch.push_back(0);
    for (std::size_t i = b * events; i < (b + 1) * events; ++i) {
      all[i] = {splitmix64(i) % keys, static_cast<std::int64_t>(i & 1023)};
      std::uint32_t& last = last_batch[all[i].key];
      so_far += last == 0 ? 1 : 0;
      keys_in_batch[b] += last != b + 1 ? 1 : 0;
      last = static_cast<std::uint32_t>(b + 1);
    }
    keys_so_far.push_back(so_far);
  }
}

}  // namespace bench
