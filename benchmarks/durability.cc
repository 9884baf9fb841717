#include "benchmarks/durability.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "benchmarks/data.h"
#include "benchmarks/socket.h"
#include "benchmarks/stream.h"

namespace bench {
namespace {

using namespace std::chrono_literals;

double milliseconds(sluice::Duration duration) { return std::chrono::duration<double, std::milli>(duration).count(); }

/// How long the appends of `bytes` with a sync each take, in milliseconds.
std::vector<double> append_and_sync(std::size_t bytes, std::size_t times) {
  const Scratch scratch;
  sluice::FileSystem& files = sluice::system_runtime().files();
  files.make_directories(scratch.path());
  const auto file = files.create(scratch.path() + "/file");
  const std::string content(bytes, 'x');
  std::vector<double> took;
  for (std::size_t i = 0; i < times; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    file->append(content);
    file->sync();
    took.push_back(seconds_since(begin) * 1e3);
  }
  return took;
}

/// What this disk can take, in MB/s: appends of `bytes` with a sync each.
double append_rate(std::size_t bytes, std::size_t times) {
  double all = 0;
  for (const double took : append_and_sync(bytes, times)) all += took;
  return static_cast<double>(bytes * times) / all / 1e3;
}

// ---- State

constexpr std::size_t keys_of_recovery = 630'000;

/// A sum a key, whose input the caller gives. Counts the keys that changed, or all of them.
class Sums {
 public:
  explicit Sums(const sluice::StreamingOptions& options, bool count_all = false) : stream(2, options) {
    const auto sums = sums_of(stream.ssc.queue_stream(queue).name("events"));
    collect(count_all ? sums.count() : sums.changes().count(), counted);
  }
  /// A batch of one event for each of `count` keys from `first` on.
  void push(std::uint64_t first, std::size_t count) {
    auto events = std::make_shared<std::vector<Event>>();
    for (std::size_t i = 0; i < count; ++i) events->push_back({splitmix64(first + i), 1});
    const std::string_view bytes(reinterpret_cast<const char*>(events->data()), count * sizeof(Event));
    const std::size_t half = count / 2 * sizeof(Event);
    queue.push(stream.context.record_blocks<Event>({{events, bytes.substr(0, half)}, {events, bytes.substr(half)}}));
  }

  Stream stream;
  sluice::RddQueue<Event> queue;
  /// Summed over the batches.
  std::int64_t counted = 0;
};

}  // namespace

std::vector<Figure> disk_figures(bool quick) {
  const std::vector<double> took = append_and_sync(4 << 10, quick ? 300 : 2000);
  return {{"disk: append of 4 KiB and sync, median", median(took), "ms"},
          {"  p99", quantile(took, 0.99), "ms"},
          {"disk: appends of 1 MiB with a sync each", append_rate(1 << 20, quick ? 100 : 400), "MB/s"}};
}

std::vector<Figure> short_interval_figures(bool quick) {
  const std::size_t warm = 100;
  const std::size_t batches = quick ? 500 : 3000;
  const Scratch scratch;
  SmallWordCount program(10ms, scratch.path());
  const auto text = SmallWordCount::lines(1000);
  for (std::size_t i = 0; i < warm + batches; ++i) program.push(text);
  std::vector<double> delays;
  std::size_t ended = 0;
  program.stream.run([&](const sluice::BatchInfo& batch) {
    if (++ended > warm) delays.push_back(milliseconds(*batch.total_delay()));
    return ended < warm + batches;
  });
  const std::vector<double> syncs = append_and_sync(4 << 10, 500);
  return {{"10 ms interval, durable: delay, median", median(delays), "ms"},
          {"  p99", quantile(delays, 0.99), "ms"},
          {"  p99 of the disk's sync after it", quantile(syncs, 0.99), "ms"}};
}

std::vector<Figure> checkpoint_figures(bool quick) {
  constexpr std::size_t keys = 1'000'000;
  const std::size_t warm = 15;
  const std::size_t batches = quick ? 60 : 300;
  const Scratch scratch;
  Sums sums({.batch = 100ms, .checkpoint = scratch.path(), .checkpoint_interval = 1s});
  sums.push(0, keys);
  for (std::size_t i = 0; i < warm + batches; ++i) sums.push(i * keys / 100 % keys, keys / 100);
  std::vector<double> took;
  std::size_t ended = 0;
  sums.stream.run([&](const sluice::BatchInfo& batch) {
    if (++ended > warm) took.push_back(milliseconds(*batch.processing_delay()));
    return ended < warm + batches;
  });
  return {{"1 M keys, 1 % changed, checkpoints: median", median(took), "ms"},
          {"  p99", quantile(took, 0.99), "ms"},
          {"  longest", quantile(took, 1), "ms"}};
}

void fill_state_and_die(const std::string& directory) {
  Sums sums({.batch = 10ms, .checkpoint = directory, .checkpoint_interval = 100ms});
  sums.push(0, keys_of_recovery);
  for (int i = 0; i < 100; ++i) sums.push(0, keys_of_recovery / 100);
  std::size_t ended = 0;
  sums.stream.run([&](const sluice::BatchInfo&) {
    if (++ended == 95) std::_Exit(0);
    return true;
  });
  std::abort();
}

void recover_state(const std::string& directory) {
  Sums sums({.batch = 10ms, .checkpoint = directory}, true);
  sums.stream.run([](const sluice::BatchInfo&) { return false; });
  // All keys, in each batch that had not been complete.
  if (sums.counted == 0 || sums.counted % static_cast<std::int64_t>(keys_of_recovery) != 0) std::abort();
}

std::vector<Figure> recovery_figures(bool quick) {
  std::vector<double> took;
  for (int i = 0; i < (quick ? 3 : 7); ++i) {
    const Scratch scratch;
    if (sluice::spawn_self({"--fill-state", scratch.path()})->wait() != 0) return {};
    const auto begin = std::chrono::steady_clock::now();
    if (sluice::spawn_self({"--recover-state", scratch.path()})->wait() != 0) return {};
    took.push_back(seconds_since(begin) * 1e3);
  }
  return {{"recovery of 630,000 keys: start to batch", median(took), "ms"}};
}

// ---- The write-ahead log

std::vector<Figure> wal_figures(bool quick) {
  const TextData text(4, 50'000, 2);
  const std::size_t rounds = quick ? 1 : 3;
  const std::size_t batches = quick ? 8 : 16;
  std::vector<double> disk, grep_without, grep_with, grep_ratio, words_without, words_with, words_ratio;
  for (std::size_t round = 0; round < rounds; ++round) {
    disk.push_back(append_rate(4 << 20, 100));
    grep_without.push_back(socket_rate(text, threads(2), false, batches, grep));
    grep_with.push_back(socket_rate(text, threads(2), true, batches, grep));
    grep_ratio.push_back(grep_with.back() / std::min(disk.back(), grep_without.back()));
    words_without.push_back(socket_rate(text, threads(2), false, batches, word_count));
    words_with.push_back(socket_rate(text, threads(2), true, batches, word_count));
    words_ratio.push_back(words_with.back() / words_without.back());
  }
  return {{"disk: appends of 4 MiB with a sync each", median(disk), "MB/s"},
          {"W1 over a socket, no write-ahead log", median(grep_without), "MB/s"},
          {"  with the write-ahead log", median(grep_with), "MB/s"},
          {"  by the lower of disk and socket", median(grep_ratio), ""},
          {"W2 over a socket, no write-ahead log", median(words_without), "MB/s"},
          {"  with the write-ahead log", median(words_with), "MB/s"},
          {"  by the rate without", median(words_ratio), ""}};
}

// ---- CPU

namespace {

/// CPU seconds a batch at a 1 s interval. `make(stream)` declares the program and fills its queue with `batches` RDDs.
template <class Make>
double cpu_a_batch(const sluice::StreamingOptions& options, std::size_t batches, const Make& make) {
  constexpr std::size_t warm = 3;
  Stream stream(2, options);
  make(stream, warm + batches);
  std::size_t ended = 0;
  double cpu = 0;
  stream.run([&](const sluice::BatchInfo&) {
    if (++ended == warm) cpu = BatchTimer::cpu_seconds();
    return ended < warm + batches;
  });
  return (BatchTimer::cpu_seconds() - cpu) / static_cast<double>(batches);
}

}  // namespace

std::vector<Figure> cost_figures(bool quick) {
  const std::size_t rounds = quick ? 1 : 2;
  constexpr std::size_t batches = 11;
  const TextData text(4, 250'000, 2);
  const EventData events(5, 500'000, 1'000'000);
  // A batch has the same text or events several times over.
  const auto lines = [&](Stream& stream, std::size_t count, std::size_t times) {
    sluice::RddQueue<std::string_view> queue;
    for (std::size_t b = 0; b < count; ++b) {
      std::vector<sluice::MemoryBlock> blocks;
      for (std::size_t i = 0; i < times; ++i) add_blocks(text, i, blocks);
      queue.push(stream.context.text_blocks(std::move(blocks)));
    }
    return stream.ssc.queue_stream(queue).name("lines");
  };
  std::int64_t sum = 0;
  const auto words = [&](Stream& stream, std::size_t count) { collect(word_count(lines(stream, count, 16)), sum); };
  const auto window = [&](Stream& stream, std::size_t count) {
    collect(window_count(lines(stream, count, 14), {.length = 30s, .slide = 1s}), sum);
  };
  const auto state = [&](Stream& stream, std::size_t count) {
    sluice::RddQueue<Event> queue;
    for (std::size_t b = 0; b < count; ++b) {
      std::vector<sluice::MemoryBlock> blocks;
      for (std::size_t i = 0; i < 8 * events.batches; ++i) add_blocks(events, i, 1, blocks);
      queue.push(stream.context.record_blocks<Event>(std::move(blocks)));
    }
    collect(sums_of(stream.ssc.queue_stream(queue).name("events")).changes().count(), sum);
  };
  std::vector<Figure> figures;
  // State needs a directory: without durability there is one in which no checkpoint is written in this time.
  const auto compare = [&](const char* name, bool stateful, const auto& make) {
    // The first round also maps memory that the others use again.
    double cheap = 1e9;
    double durable = 1e9;
    for (std::size_t round = 0; round < rounds; ++round) {
      const Scratch with;
      const Scratch without;
      const std::string directory = stateful ? without.path() : "";
      cheap = std::min(cheap,
                       cpu_a_batch({.batch = 1s, .checkpoint = directory, .checkpoint_interval = 1h}, batches, make));
      durable = std::min(
          durable, cpu_a_batch({.batch = 1s, .checkpoint = with.path(), .checkpoint_interval = 10s}, batches, make));
    }
    figures.push_back({std::string(name) + " at 1 s, not durable: CPU a batch", cheap, "s"});
    figures.push_back({"  durability costs", (durable / cheap - 1) * 100, "%"});
  };
  compare("W2", false, words);
  compare("W3", true, window);
  compare("W4", true, state);
  return figures;
}

}  // namespace bench
