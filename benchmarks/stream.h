// Programs of sluice as the benchmarks run them.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "benchmarks/data.h"
#include "benchmarks/sample.h"
#include "sluice/sluice.h"

namespace bench {

/// A directory that goes with it.
class Scratch {
 public:
  Scratch()
      : path_(std::filesystem::temp_directory_path() /
              ("sluice-bench-" + std::to_string(sluice::system_runtime().random_seed()))) {}
  ~Scratch() { std::filesystem::remove_all(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

/// Tells `ended` of each batch.
class Ends : public sluice::StreamingListener {
 public:
  explicit Ends(std::function<void(const sluice::BatchInfo&)> ended) : ended_(std::move(ended)) {}
  void on_batch_completed(const sluice::BatchInfo& batch) override { ended_(batch); }

 private:
  std::function<void(const sluice::BatchInfo&)> ended_;
};

inline double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

inline std::string threads(std::size_t count) { return "local[" + std::to_string(count) + "]"; }

/// A context and a stream.
class Stream {
 public:
  Stream(const std::string& master, std::size_t partitions, const sluice::StreamingOptions& options)
      : Stream({.app = "bench", .master = master, .partitions = partitions}, options) {}
  Stream(const sluice::ContextOptions& on, const sluice::StreamingOptions& options)
      : context(on), ssc(context, options) {}
  Stream(std::size_t on_threads, const sluice::StreamingOptions& options)
      : Stream(threads(on_threads), on_threads, options) {}
  /// Calls `ended` after each batch, until it returns false.
  template <class Ended>
  void run(const Ended& ended) {
    ssc.add_listener(std::make_shared<Ends>([&](const sluice::BatchInfo& batch) {
      if (!ended(batch)) ssc.request_stop(false);
    }));
    ssc.start();
    ssc.await_termination();
  }

  sluice::Context context;
  sluice::StreamingContext ssc;
};

// ---- The workloads, as streams of one number a batch; and what they are made of

/// W1: lines with the needle.
inline sluice::DStream<std::int64_t> grep(const sluice::DStream<std::string_view>& lines) {
  return lines
      .filter([](std::string_view line) {
        return ::memmem(line.data(), line.size(), TextData::needle.data(), TextData::needle.size()) != nullptr;
      })
      .count();
}

inline auto words_of(const sluice::DStream<std::string_view>& lines) {
  return lines.flat_map(sluice::split(' ')).map([](std::string_view word) { return std::pair{word, 1L}; });
}

/// W2: different words.
inline sluice::DStream<std::int64_t> word_count(const sluice::DStream<std::string_view>& lines) {
  return words_of(lines).reduce_by_key(std::plus{}).count();
}

/// W3: different words in a window.
inline sluice::DStream<std::int64_t> window_count(const sluice::DStream<std::string_view>& lines,
                                                  const sluice::WindowOptions& window) {
  return words_of(lines).reduce_by_key_and_window(std::plus{}, std::minus{}, window).name("window").count();
}

/// W4: a sum a key, of which the changes are looked at; W4full calls the function for `all` keys.
inline auto sums_of(const sluice::DStream<Event>& events, bool all = false) {
  return events.map([](const Event& event) { return std::pair{event.key, event.value}; })
      .update_state_by_key(
          [](std::span<const std::int64_t> values, std::optional<std::int64_t> sum) {
            for (const std::int64_t value : values) sum = sum.value_or(0) + value;
            return sum;
          },
          {.idle_keeps_state = !all})
      .name("sums");
}

/// An output that adds to `sum` what each batch counts.
inline void collect(const sluice::DStream<std::int64_t>& counts, std::int64_t& sum) {
  counts.foreach_rdd([&sum](const sluice::Rdd<std::int64_t>& count) { sum += count.collect()[0]; }).name("count");
}

/// Runs the batches one directly after the other: at an interval of 1 ms each is late. `rdd(context, batch number)` is
/// the input, `counted(input stream)` the workload, a stream of one number a batch.
template <class T, class MakeRdd, class Counted>
Sample run_batches(sluice::ContextOptions on, const Plan& plan, const MakeRdd& rdd, const Counted& counted) {
  on.app = "bench";
  on.partitions = plan.threads;
  // State needs one; the others get it too, as a user's would have it.
  const Scratch scratch;
  Stream stream(on, {.batch = std::chrono::milliseconds(1), .checkpoint = scratch.path()});
  sluice::RddQueue<T> queue;
  for (std::size_t batch = 0; batch < plan.all_batches(); ++batch) queue.push(rdd(stream.context, batch));
  std::int64_t sum = 0;
  collect(counted(stream.ssc.queue_stream(queue).name("in")), sum);
  BatchTimer timer(plan);
  stream.run([&](const sluice::BatchInfo&) {
    timer.batch_ended();
    return !timer.done();
  });
  return timer.take(sum);
}

/// Blocks of the text of one batch.
inline void add_blocks(const TextData& text, std::size_t batch, std::vector<sluice::MemoryBlock>& blocks) {
  for (const std::string_view slice : text.slices[batch % text.slices.size()]) {
    blocks.push_back({text.pages.owner(), slice});
  }
}

/// Blocks of the events of one batch, in `parts` of about the same size.
inline void add_blocks(const EventData& events, std::size_t batch, std::size_t parts,
                       std::vector<sluice::MemoryBlock>& blocks) {
  const Event* const all = events.batch(batch % events.batches);
  for (std::size_t part = 0; part < parts; ++part) {
    const std::size_t begin = events.events_a_batch * part / parts;
    const std::size_t end = events.events_a_batch * (part + 1) / parts;
    blocks.push_back(
        {events.pages.owner(), {reinterpret_cast<const char*>(all + begin), (end - begin) * sizeof(Event)}});
  }
}

/// A word count over a queue that the caller fills.
class SmallWordCount {
 public:
  SmallWordCount(sluice::Duration interval, const std::string& directory)
      : stream(2, {.batch = interval, .checkpoint = directory}) {
    collect(word_count(stream.ssc.queue_stream(queue).name("lines")), words);
  }
  void push(const std::shared_ptr<const std::string>& text) {
    queue.push(stream.context.text_blocks({{text, std::string_view(*text)}}));
  }
  /// Lines of one word each, all different.
  static std::shared_ptr<const std::string> lines(std::size_t count) {
    auto text = std::make_shared<std::string>();
    for (std::size_t i = 0; i < count; ++i) *text += "word" + std::to_string(i) + "\n";
    return text;
  }

  Stream stream;
  sluice::RddQueue<std::string_view> queue;
  /// Different words, summed over the batches.
  std::int64_t words = 0;
};

}  // namespace bench
