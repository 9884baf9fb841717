#include "benchmarks/loops.h"

#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <stdexcept>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bench {
namespace {

// ---- Threads in lock step

class Team {
 public:
  explicit Team(std::size_t size) : size_(size) {}

  /// Runs f(thread number) on all threads.
  void run(const std::function<void(std::size_t)>& f) {
    std::vector<std::thread> others;
    for (std::size_t t = 1; t < size_; ++t) others.emplace_back(f, t);
    f(0);
    for (std::thread& other : others) other.join();
  }
  /// Returns when all have called it. It spins for some time: waking a thread costs more than a short wait.
  void sync() {
    const std::size_t round = round_.load();
    if (waiting_.fetch_add(1) + 1 == size_) {
      waiting_ = 0;
      round_.fetch_add(1);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
      if (spins > 200) std::this_thread::yield();
    }
  }

 private:
  const std::size_t size_;
  std::atomic<std::size_t> waiting_{0};
  std::atomic<std::size_t> round_{0};
};

/// Calls body(thread, batch number), which ends in step, for each batch of the plan.
template <class Body>
void run_batches(Team& team, const Plan& plan, BatchTimer& timer, const Body& body) {
  team.run([&](std::size_t thread) {
    for (std::size_t batch = 0; batch < plan.all_batches(); ++batch) {
      body(thread, batch);
      team.sync();
      if (thread == 0) timer.batch_ended();
    }
  });
}

/// A number a thread writes, on cache lines of its own.
struct alignas(128) Tally {
  std::int64_t count = 0;
};

std::int64_t sum_of(const std::vector<Tally>& tallies) {
  std::int64_t sum = 0;
  for (const Tally& tally : tallies) sum += tally.count;
  return sum;
}

// ---- W2, W3: words

struct Counter {
  std::uint64_t lo, hi;  // the word, zero-filled; lo is 0 in a free slot
  std::int64_t count;
  std::uint64_t hash;
};

std::uint64_t hash_of(std::uint64_t lo, std::uint64_t hi) {
  const auto product = static_cast<unsigned __int128>(lo ^ 0xa0761d6478bd642fULL) * (hi ^ 0xe7037ed1a0b428dbULL);
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

/// Linear probing, at most half full.
class WordTable {
 public:
  explicit WordTable(std::size_t capacity) { allocate(capacity); }

  void add(std::uint64_t lo, std::uint64_t hi, std::uint64_t hash, std::int64_t count) {
    for (std::size_t i = hash >> 8 & mask_;; i = (i + 1) & mask_) {
      Counter& counter = counters_[i];
      if (counter.lo == lo && counter.hi == hi) {
        counter.count += count;
        return;
      }
      if (counter.lo == 0) {
        counter = {lo, hi, count, hash};
        if (++size_ * 2 > mask_ + 1) grow();
        return;
      }
    }
  }
  void clear() {
    std::memset(static_cast<void*>(counters_), 0, (mask_ + 1) * sizeof(Counter));
    size_ = 0;
  }
  std::size_t size() const { return size_; }
  const Counter* begin() const { return counters_; }
  const Counter* end() const { return counters_ + mask_ + 1; }

 private:
  void allocate(std::size_t capacity) {
    pages_ = Pages(capacity * sizeof(Counter));
    counters_ = reinterpret_cast<Counter*>(pages_.data());
    mask_ = capacity - 1;
    size_ = 0;
  }
  void grow() {
    const Pages old = pages_;
    const Counter* const from = counters_;
    const std::size_t capacity = mask_ + 1;
    allocate(capacity * 2);
    for (const Counter* c = from; c != from + capacity; ++c) {
      if (c->lo != 0) add(c->lo, c->hi, c->hash, c->count);
    }
  }

  Pages pages_;
  Counter* counters_ = nullptr;
  std::size_t mask_ = 0;
  std::size_t size_ = 0;
};

// The words of this text have 10 letters at most.
[[noreturn]] void fail_word() { throw std::logic_error("a word of more than 16 letters"); }

#if defined(__x86_64__)
// The same loop twice: `target` makes the compiler use the instructions named, whatever it builds the rest for.
#define BENCH_AVX512 __attribute__((target("avx512bw,avx512vl,bmi,bmi2")))

// A call of its own leaves the loop its registers.
BENCH_AVX512 __attribute__((noinline)) void count_word_avx512(const char* word, std::size_t size, WordTable& table) {
  if (size > 16) fail_word();
  const __m128i key = _mm_maskz_loadu_epi8(static_cast<__mmask16>((1U << size) - 1), word);
  const auto lo = static_cast<std::uint64_t>(_mm_cvtsi128_si64(key));
  const auto hi = static_cast<std::uint64_t>(_mm_extract_epi64(key, 1));
  table.add(lo, hi, hash_of(lo, hi), 1);
}

BENCH_AVX512 void count_words_avx512(std::string_view text, WordTable& table) {
  const char* const end = text.data() + text.size();
  const char* word = text.data();
  for (const char* p = text.data(); p < end; p += 64) {
    const __mmask64 inside = end - p >= 64 ? ~0ULL : (1ULL << (end - p)) - 1;
    std::uint64_t blanks = _mm512_cmple_epu8_mask(_mm512_maskz_loadu_epi8(inside, p), _mm512_set1_epi8(' ')) & inside;
    for (; blanks != 0; blanks &= blanks - 1) {
      const char* const blank = p + __builtin_ctzll(blanks);
      if (blank > word) count_word_avx512(word, static_cast<std::size_t>(blank - word), table);
      word = blank + 1;
    }
  }
  if (end > word) count_word_avx512(word, static_cast<std::size_t>(end - word), table);
}

void count_words_sse(std::string_view text, WordTable& table) {
  // Reads 16 bytes where the text has so many left.
  const auto count = [&table, last = text.data() + text.size() - 16](const char* word, std::size_t size) {
    if (size > 16) fail_word();
    char copy[16] = {};
    if (word <= last) {
      std::memcpy(copy, word, 16);
    } else {
      std::memcpy(copy, word, size);
    }
    std::uint64_t lo = 0;
    std::uint64_t hi = 0;
    std::memcpy(&lo, copy, 8);
    std::memcpy(&hi, copy + 8, 8);
    lo &= size >= 8 ? ~0ULL : (1ULL << (8 * size)) - 1;
    hi &= size >= 16 ? ~0ULL : size <= 8 ? 0 : (1ULL << (8 * (size - 8))) - 1;
    table.add(lo, hi, hash_of(lo, hi), 1);
  };
  const char* const end = text.data() + text.size();
  const char* word = text.data();
  const char* p = text.data();
  for (; end - p >= 16; p += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m128i kept = _mm_min_epu8(bytes, _mm_set1_epi8(' '));
    auto blanks = static_cast<unsigned>(_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, kept)));
    for (; blanks != 0; blanks &= blanks - 1) {
      const char* const blank = p + __builtin_ctz(blanks);
      if (blank > word) count(word, static_cast<std::size_t>(blank - word));
      word = blank + 1;
    }
  }
  for (; p < end; ++p) {
    if (static_cast<unsigned char>(*p) > ' ') continue;
    if (p > word) count(word, static_cast<std::size_t>(p - word));
    word = p + 1;
  }
  if (end > word) count(word, static_cast<std::size_t>(end - word));
}

void count_words(std::string_view text, WordTable& table) {
  static const bool avx512 = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                             __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  if (avx512) {
    count_words_avx512(text, table);
  } else {
    count_words_sse(text, table);
  }
}
#else
void count_words(std::string_view text, WordTable& table) {
  const char* const end = text.data() + text.size();
  const char* word = text.data();
  for (const char* p = text.data();; ++p) {
    if (p < end && static_cast<unsigned char>(*p) > ' ') continue;
    const auto size = static_cast<std::size_t>(p - word);
    if (size > 16) fail_word();
    std::uint64_t key[2] = {};
    std::memcpy(key, word, size);
    if (size > 0) table.add(key[0], key[1], hash_of(key[0], key[1]), 1);
    if (p >= end) return;
    word = p + 1;
  }
}
#endif

/// What a thread of W2 and W3 has.
struct Words {
  WordTable of_slice{1 << 15};
  /// Words of the batch, or the window, whose hash makes them this thread's.
  WordTable of_batch{1 << 15};
};

using TeamWords = std::vector<std::unique_ptr<Words>>;

TeamWords make_words(std::size_t threads) {
  TeamWords words;
  for (std::size_t t = 0; t < threads; ++t) words.push_back(std::make_unique<Words>());
  return words;
}

/// Counts the slice, then merges this thread's share of all slices.
void count_batch(Team& team, TeamWords& words, std::size_t thread, std::string_view slice) {
  words[thread]->of_slice.clear();
  count_words(slice, words[thread]->of_slice);
  team.sync();
  WordTable& merged = words[thread]->of_batch;
  merged.clear();
  for (const auto& from : words) {
    for (const Counter& c : from->of_slice) {
      if (c.lo != 0 && (c.hash >> 56) % words.size() == thread) merged.add(c.lo, c.hi, c.hash, c.count);
    }
  }
}

}  // namespace

Sample loop_grep(const TextData& text, const Plan& plan) {
  Team team(plan.threads);
  BatchTimer timer(plan);
  std::vector<Tally> found(plan.threads);
  run_batches(team, plan, timer, [&](std::size_t thread, std::size_t batch) {
    const std::string_view slice = text.slices[batch % text.slices.size()][thread];
    const char* const end = slice.data() + slice.size();
    std::int64_t count = 0;
    for (const char* p = slice.data(); p < end;) {
      const void* newline = std::memchr(p, '\n', static_cast<std::size_t>(end - p));
      const char* const line_end = newline == nullptr ? end : static_cast<const char*>(newline);
      const auto size = static_cast<std::size_t>(line_end - p);
      if (::memmem(p, size, TextData::needle.data(), TextData::needle.size()) != nullptr) ++count;
      p = line_end + 1;
    }
    found[thread].count += count;
  });
  return timer.take(sum_of(found));
}

Sample loop_word_count(const TextData& text, const Plan& plan) {
  Team team(plan.threads);
  BatchTimer timer(plan);
  TeamWords words = make_words(plan.threads);
  std::vector<Tally> different(plan.threads);
  run_batches(team, plan, timer, [&](std::size_t thread, std::size_t batch) {
    count_batch(team, words, thread, text.slices[batch % text.slices.size()][thread]);
    different[thread].count += static_cast<std::int64_t>(words[thread]->of_batch.size());
  });
  return timer.take(sum_of(different));
}

Sample loop_window(const TextData& text, const Plan& plan, std::size_t window) {
  Team team(plan.threads);
  BatchTimer timer(plan);
  TeamWords words = make_words(plan.threads);
  std::vector<std::unique_ptr<WordTable>> sums;
  for (std::size_t t = 0; t < plan.threads; ++t) sums.push_back(std::make_unique<WordTable>(1 << 18));
  std::vector<std::deque<std::vector<Counter>>> batches(plan.threads);  // in the window, by thread
  std::vector<Tally> different(plan.threads);
  run_batches(team, plan, timer, [&](std::size_t thread, std::size_t batch) {
    count_batch(team, words, thread, text.slices[batch % text.slices.size()][thread]);
    WordTable& sum = *sums[thread];
    std::vector<Counter> changes;
    if (batches[thread].size() == window) {
      changes = std::move(batches[thread].front());
      batches[thread].pop_front();
      for (const Counter& c : changes) sum.add(c.lo, c.hi, c.hash, -c.count);
      changes.clear();
    }
    changes.reserve(words[thread]->of_batch.size());
    for (const Counter& c : words[thread]->of_batch) {
      if (c.lo == 0) continue;
      sum.add(c.lo, c.hi, c.hash, c.count);
      changes.push_back(c);
    }
    batches[thread].push_back(std::move(changes));
    std::int64_t count = 0;
    for (const Counter& c : sum) count += c.count > 0 ? 1 : 0;
    different[thread].count += count;
  });
  return timer.take(sum_of(different));
}

// ---- W4: state

namespace {

struct Sum {
  std::uint64_t key_plus_1;  // 0 in a free slot
  std::int64_t sum;
};

std::uint64_t hash_of(std::uint64_t key) { return key * 0x9E3779B97F4A7C15ULL; }

/// The sums of one thread's keys. Never grows.
class SumTable {
 public:
  explicit SumTable(std::size_t keys) {
    while (mask_ + 1 < keys * 2 + 16) mask_ = mask_ * 2 + 1;
    pages_ = Pages((mask_ + 1) * sizeof(Sum));
    sums_ = reinterpret_cast<Sum*>(pages_.data());
  }
  void add(const Event* events, std::size_t count) {
    constexpr std::size_t ahead = 16;  // a core has 10 to 16 outstanding misses
    for (std::size_t i = 0; i < count; ++i) {
      if (i + ahead < count) __builtin_prefetch(&sums_[slot_of(events[i + ahead].key)], 1);
      const std::uint64_t wanted = events[i].key + 1;
      std::size_t slot = slot_of(events[i].key);
      while (sums_[slot].key_plus_1 != 0 && sums_[slot].key_plus_1 != wanted) slot = (slot + 1) & mask_;
      sums_[slot].key_plus_1 = wanted;
      sums_[slot].sum += events[i].value;
    }
  }
  /// Walks all of it.
  std::int64_t keys(std::int64_t& total) const {
    std::int64_t keys = 0;
    for (std::size_t slot = 0; slot <= mask_; ++slot) {
      keys += sums_[slot].key_plus_1 != 0 ? 1 : 0;
      total += sums_[slot].sum;
    }
    return keys;
  }

 private:
  std::size_t slot_of(std::uint64_t key) const { return hash_of(key) >> 20 & mask_; }

  std::size_t mask_ = 0;
  Pages pages_;
  Sum* sums_ = nullptr;
};

}  // namespace

Sample loop_state(const EventData& events, const Plan& plan, bool all) {
  const std::size_t threads = plan.threads;
  Team team(threads);
  BatchTimer timer(plan);
  std::vector<SumTable> tables;
  for (std::size_t t = 0; t < threads; ++t) tables.emplace_back(events.keys / threads);
  // By thread that read them, by thread whose keys they are.
  std::vector<std::vector<std::vector<Event>>> exchanged(threads, std::vector<std::vector<Event>>(threads));
  for (auto& from : exchanged) {
    for (auto& to : from) to.resize(events.events_a_batch);
  }
  std::vector<std::vector<std::size_t>> sizes(threads, std::vector<std::size_t>(threads));
  std::vector<Tally> keys(threads);
  std::vector<Tally> totals(threads);
  run_batches(team, plan, timer, [&](std::size_t thread, std::size_t batch) {
    const Event* const in = events.batch(batch % events.batches);
    const std::size_t end = events.events_a_batch * (thread + 1) / threads;
    std::vector<std::size_t> filled(threads);
    for (std::size_t i = events.events_a_batch * thread / threads; i < end; ++i) {
      const std::size_t to = (hash_of(in[i].key) >> 40) % threads;
      exchanged[thread][to][filled[to]++] = in[i];
    }
    sizes[thread] = filled;
    team.sync();
    for (std::size_t from = 0; from < threads; ++from) {
      tables[thread].add(exchanged[from][thread].data(), sizes[from][thread]);
    }
    if (all) keys[thread].count += tables[thread].keys(totals[thread].count);
  });
  if (all) return timer.take(sum_of(keys));
  // Counting the keys of each batch is no part of the work; so the check is whether all keys are there in the end.
  std::int64_t keys_at_end = 0;
  for (std::size_t t = 0; t < threads; ++t) keys_at_end += tables[t].keys(totals[t].count);
  std::int64_t result = keys_at_end == events.keys_so_far.back() ? 0 : -1;
  for (std::size_t b = 0; b < plan.all_batches(); ++b) result += events.keys_in_batch[b % events.batches];
  return timer.take(result);
}

}  // namespace bench
